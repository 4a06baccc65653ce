import xml.etree.ElementTree as ET

import pytest

from hansa_server.report.charts import confusion_chart, cross_site_chart, partition_chart

NS = "{http://www.w3.org/2000/svg}"


def test_area_is_the_number_of_examples() -> None:
    root = ET.fromstring(partition_chart(["a", "b"], [(400, 100), (0, 25)], ["x", "y"]))
    radii = [float(circle.get("r", "0")) for circle in root.iter(f"{NS}circle")]
    assert [round((radius / radii[0]) ** 2 * 400) for radius in radii] == [400, 100, 25]
    texts = [entry.text for entry in root.iter(f"{NS}text")]
    assert {"500", "25", "400", "125", "525"} <= set(texts)


@pytest.mark.parametrize(("sites", "classes"), [(31, 3), (2, 21), (250, 3), (40, 150)])
def test_many_sites_or_classes_are_a_heat_map(sites: int, classes: int) -> None:
    counts = [tuple(range(classes))] * sites
    root = ET.fromstring(partition_chart([f"s{i}" for i in range(sites)], counts, [f"c{i}" for i in range(classes)]))
    assert not list(root.iter(f"{NS}circle"))
    cells = [rect for rect in root.iter(f"{NS}rect") if rect.get("class") == "heat"]
    assert len(cells) == min(sites, 200) * (classes - 1)
    assert (f"The 200 largest of {sites} sites; totals are over all." in {t.text for t in root.iter(f"{NS}text")}) == (
        sites > 200
    )


def test_shade_is_the_share_of_the_row_and_an_empty_row_has_none() -> None:
    root = ET.fromstring(confusion_chart(((3, 1), (0, 0)), ("x", "y")))
    cells = [rect for rect in root.iter(f"{NS}rect") if rect.get("class") == "heat"]
    assert [float(cell.get("fill-opacity", "0")) for cell in cells] == [0.75, 0.25]
    shown = [entry for entry in root.iter(f"{NS}text") if (entry.get("class") or "").startswith("cell")]
    assert [entry.text for entry in shown] == ["3", "1", "0", "0"]
    assert shown[0].get("class") == "cell reversed"


def test_no_sites_and_no_examples_are_drawn_empty() -> None:
    ET.fromstring(partition_chart([], [], ["x", "y"]))
    ET.fromstring(partition_chart(["a"], [(0, 0)], ["x", "y"]))


def test_a_matrix_too_large_to_see_is_not_drawn() -> None:
    assert confusion_chart(((0,) * 201,) * 201, tuple(f"c{i}" for i in range(201))) == ""


def _shades(values: list[list[float | None]], *, is_higher_better: bool) -> list[tuple[float, str | None]]:
    sites = [f"s{index}" for index in range(len(values[0]))]
    chart = cross_site_chart(
        "x", ["m"] * len(values), sites, values, is_higher_better=is_higher_better, write=lambda value: f"{value}"
    )
    root = ET.fromstring(chart)
    cells = [rect for rect in root.iter(f"{NS}rect") if rect.get("class") == "heat"]
    return [(float(cell.get("fill-opacity", "0")), cell.findtext(f"{NS}title")) for cell in cells]


def test_the_best_model_is_the_darkest_whichever_way_the_figure_goes() -> None:
    accuracies = _shades([[0.5, 1.0], [None, 0.75]], is_higher_better=True)
    assert accuracies == [
        (0.06, "Model of m, tested at s0: 0.5"),
        (1.0, "Model of m, tested at s1: 1.0"),
        (0.53, "Model of m, tested at s1: 0.75"),
    ]
    assert [shade for shade, _ in _shades([[10.0, 20.0]], is_higher_better=False)] == [1.0, 0.06]
    assert [shade for shade, _ in _shades([[0.5, 0.5]], is_higher_better=True)] == [0.53, 0.53]


def test_models_at_thirty_sites_have_no_text_in_cells() -> None:
    values: list[list[float | None]] = [[0.1 * column for column in range(30)]] * 31
    chart = cross_site_chart(
        "x",
        ["m"] * 31,
        [f"s{index}" for index in range(30)],
        values,
        is_higher_better=True,
        write=lambda value: f"{value}",
    )
    assert "cell " not in chart
    ET.fromstring(chart)
