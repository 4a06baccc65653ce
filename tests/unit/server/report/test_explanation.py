import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.unit.server.report.page_checks import assert_accessible

from hansa_common.plan import StudyPlan, parse_plan
from hansa_server.report import load_pictures, model_card, render
from hansa_server.report.charts import heat_grid, importance_chart
from hansa_server.report.explanation import Picture, parts, sentence, strongest
from hansa_server.results import Explanation, ExplanationView, Results

Make = Callable[..., Results]
HOSTILE = "<script>alert(1)</script>\"'&"


def explained(results: Results, *views: ExplanationView, classes: int = 2, **changes: Any) -> Results:
    counts = (30,) * classes + (0,) * (len(results.classes) - classes)
    values: dict[str, Any] = {
        "method": "integrated_gradients",
        "split": "test",
        "minimum_examples": 10,
        "scores": results.classes,
        "explained": counts,
        "views": views,
        "unexplained": {},
    }
    return results.model_copy(update={"explanation": Explanation(**(values | changes))})


def view(results: Results, labels: tuple[str, ...], *, classes: int = 2, rows: int = 0) -> ExplanationView:
    values = tuple(
        tuple(float(number + index) for index in range(len(labels))) if number < classes else None
        for number in range(len(results.classes))
    )
    name: Any = "cells" if rows else "columns"
    return ExplanationView(name=name, rows=rows, labels=labels, importance=values, direction=values)


def test_a_study_that_asks_for_none_has_no_section(make_results: Make, plan: StudyPlan) -> None:
    page = render(make_results(), "")
    assert 'id="explanation"' not in page
    assert "img-src" not in page
    assert "What it looks at" not in model_card(make_results(), plan)


def test_columns_are_drawn_from_the_most_important_and_names_are_escaped(make_results: Make, plan: StudyPlan) -> None:
    results = make_results()
    results = explained(results, view(results, ("age", HOSTILE, "dose")))
    (part,) = parts(results)
    assert part.overall is not None
    names = re.findall(r"<g><title>(.*?)</title>", part.overall.wide)
    assert [name[:4] for name in names] == ["dose", "&lt;", "age"]
    ET.fromstring(part.overall.narrow)
    page = render(results, "")
    assert HOSTILE not in page
    assert "integrated gradients" in page
    assert strongest(results) == ["dose", HOSTILE, "age"]
    card = model_card(results, plan)
    assert "What matters most: dose, " in card
    assert "<script>" not in card


def test_with_many_classes_each_has_a_chart_of_its_own(make_results: Make) -> None:
    results = make_results()
    labels = tuple(f"column {number}" for number in range(40))
    (part,) = parts(explained(results, view(results, labels, classes=5), classes=5))
    assert [chart.name for chart in part.by_class] == list(results.classes[:5])
    assert "15 that matter most, of 40" in part.remark
    assert part.overall is not None
    assert part.overall.wide.count('class="bar model-1"') == 15


def test_places_are_a_grid_of_one_scale(make_results: Make) -> None:
    results = make_results()
    labels = tuple(f"cell {number}" for number in range(6))
    (part,) = parts(explained(results, view(results, labels, rows=2)))
    assert [chart.name for chart in part.by_class] == list(results.classes[:2])
    assert 'opacity="0.83"' in part.by_class[0].wide  # 5 of 6
    assert 'opacity="1"' in part.by_class[1].wide
    assert strongest(explained(results, view(results, labels, rows=2))) == []


def test_it_says_what_is_not_in_it(make_results: Make) -> None:
    results = make_results()
    said = sentence(explained(results, view(results, ("age",)), unexplained={"Lübeck": "away"}))
    assert results.classes[2] in said
    assert "Not in it: Lübeck." in said
    nothing = explained(results, view(results, ("age",), classes=0), classes=0)
    assert parts(nothing) == []
    assert "no site let out" in render(nothing, "")


def test_pictures_are_shown_of_a_simulation_whose_plan_says_so(
    tmp_path: Path, make_results: Make, plan: StudyPlan
) -> None:
    folder = tmp_path / "explanations" / "001 a <site>"
    folder.mkdir(parents=True)
    (folder / "001-image.png").write_bytes(b"image")
    (folder / "001-overlay.png").write_bytes(b"overlay")
    (folder / "002-image.png").write_bytes(b"no overlay")

    def planned(*, show: bool, simulated: bool = True) -> StudyPlan:
        values = plan.model_dump(mode="json", exclude_none=True)
        values["evaluation"]["explain"] = {"method": "grad_cam", "show_examples": show}
        if not simulated:
            del values["simulation"]
        return parse_plan(values)

    (picture,) = load_pictures(tmp_path, planned(show=True))
    assert picture == Picture(
        caption="a <site>", image="data:image/png;base64,aW1hZ2U=", overlay="data:image/png;base64,b3ZlcmxheQ=="
    )
    assert load_pictures(tmp_path, planned(show=False)) == []
    assert load_pictures(tmp_path, planned(show=True, simulated=False)) == []
    assert load_pictures(tmp_path, plan) == []
    results = make_results()
    page = render(explained(results, view(results, ("age",))), "", pictures=[picture])
    assert_accessible(page)
    assert "img-src data:" in page
    assert "a &lt;site&gt;" in page


@pytest.mark.parametrize("values", [(0.0, 0.0), (1e-9, 1.0)])
def test_charts_are_well_formed_also_of_nothing(values: tuple[float, ...]) -> None:
    ET.fromstring(heat_grid("x", values, rows=1, least=min(values), largest=max(values)))
    ET.fromstring(importance_chart("x", ["a", "b"], [("row", values)], width=300.0))
    ET.fromstring(importance_chart("x", ["a"], [], width=300.0))
