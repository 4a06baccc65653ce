import ast
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest
from tests.unit.server.report.page_checks import assert_accessible

import hansa_server.report
from hansa_server.notice import Notice
from hansa_server.report import render
from hansa_server.results import Results

Make = Callable[..., Results]
VOID = {"meta", "br"}
SELF_CLOSED = {"line", "rect", "circle", "path"}
HOSTILE = "<script>alert(1)</script>\"'&<img src=x onerror=alert(2)>"


class Page(HTMLParser):
    """Checks that tags are balanced and ids unique; keeps what the tests ask for."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str, str]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert not self.open
        assert len(set(self.ids)) == len(self.ids)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._note(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in SELF_CLOSED
        self._note(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def _note(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self.ids += [value or "" for name, value in attrs if name == "id"]


def svgs(page: str) -> list[str]:
    return re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)


SHAPES: dict[str, dict[str, object]] = {
    "four sites with baselines": {"baselines": True, "coordinator": True},
    "without baselines": {},
    "120 sites": {"names": tuple(f"site-{i}" for i in range(120)), "rounds": 3},
    "120 sites with baselines": {"names": tuple(f"site-{i}" for i in range(120)), "rounds": 3, "baselines": True},
    "stopped": {"rounds": 7, "planned": 20, "finished": False},
    "no rounds": {"rounds": 0, "planned": 20, "finished": False, "sites": ()},
    "one class missing": {"absent_class": 3},
    "two classes": {"classes": ("no", "yes"), "rounds": 1},
    "100 classes": {"classes": tuple(f"c{i}" for i in range(100)), "rounds": 2},
    "300 classes": {"classes": tuple(f"c{i}" for i in range(300)), "rounds": 2},
    "one site": {"names": ("Lübeck",), "baselines": True},
    "250 sites": {"names": tuple(f"s{i}" for i in range(250)), "rounds": 1},
    "1,000 rounds": {"names": ("Lübeck",), "rounds": 1000},
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_every_shape_of_a_study_gives_a_whole_self_contained_page(make_results: Make, shape: dict[str, object]) -> None:
    text = render(make_results(**shape), 'name = "x"')
    page = Page(text)
    for section in ("study", "headlines", "rounds", "sites", "partition", "confusion", "scores", "missing", "cost"):
        assert section in page.ids
    assert "script" not in page.tags
    assert_accessible(text)
    assert not [
        entry for entry in page.attributes if entry[1] in {"src", "href", "srcset"} or entry[1].startswith("on")
    ]
    assert "url(" not in text
    assert "@import" not in text
    addresses = set(re.findall(r"https?://[^\"'\s<]+", text)) - {"http://www.w3.org/2000/svg"}
    assert addresses == set()
    for svg in svgs(text):
        root = ET.fromstring(svg)
        assert root.get("role") == "img"
        assert root.get("aria-label")
        assert root.get("viewBox")
    assert "None" not in page.text
    assert "nan" not in re.findall(r"[a-z]+", page.text)


def test_the_order_is_that_of_a_reader(make_results: Make) -> None:
    ids = Page(render(make_results(baselines=True), "")).ids
    order = ["study", "headlines", "rounds", "sites", "pay", "partition", "confusion", "scores", "missing", "cost"]
    assert [name for name in ids if name in {*order, "provenance"}] == [*order, "provenance"]


def test_what_the_study_noticed_stands_under_the_verdict(make_results: Make) -> None:
    about = Notice(kind="diverging_site", round=3, site=HOSTILE, figure=9.0, text=f"{HOSTILE} runs.", advice="Look.")
    early = Notice(kind="label_skew", round=0, figure=0.8, text="Skewed.", advice="Compare.")
    results = make_results()
    assert "notices" not in Page(render(results, "")).ids
    text = render(results.model_copy(update={"notices": (early, about)}), "")
    page = Page(text)
    assert page.ids.index("study") < page.ids.index("notices") < page.ids.index("headlines")
    assert "script" not in page.tags
    for words in (f"{HOSTILE} runs.", "Round 3.", "Before the first round.", "Look.", "Skewed.", "Compare."):
        assert words in page.text


def test_names_from_others_are_text_wherever_they_stand(make_results: Make) -> None:
    results = make_results(
        names=(HOSTILE, "Hamburg"),
        classes=(HOSTILE, "b"),
        baselines=True,
        missing={2: {HOSTILE: HOSTILE}},
        purpose=HOSTILE,
        study=HOSTILE,
        data_origin=HOSTILE,
        partition=HOSTILE,
        status="failed",
        reason=HOSTILE,
        environment={HOSTILE: HOSTILE},
    )
    text = render(results, f"</code></pre>{HOSTILE}")
    page = Page(text)
    assert not {"script", "img"} & page.tags
    assert "<script" not in text
    assert page.text.count("<script>alert(1)</script>") > 10
    assert "default-src 'none'; style-src 'unsafe-inline'" in [value for _, _, value in page.attributes]
    for svg in svgs(text):
        ET.fromstring(svg)


def test_characters_that_xml_forbids_do_not_break_a_chart(make_results: Make) -> None:
    for svg in svgs(render(make_results(names=("a\x00b\x1b", "c\ud800"), baselines=True), "")):
        ET.fromstring(svg)


def test_four_figures_are_always_there(make_results: Make) -> None:
    for shape in ({"baselines": True}, {}, {"finished": False, "rounds": 2}):
        text = Page(render(make_results(**shape), "")).text
        for name in ("Weighted mean accuracy", "Site mean accuracy", "Worst site", "Worst site against training alone"):
            assert name in text
    page = render(make_results(), "")
    assert "not measured: run with" in page
    assert "<code>--baselines</code>" in page


def test_a_stopped_study_says_why_and_how_to_go_on(make_results: Make) -> None:
    text = Page(render(make_results(rounds=7, planned=20, finished=False), "")).text
    assert "Stopped after 7 of 20 rounds" in text
    assert "interrupted from the keyboard" in text
    assert "hansa simulate --resume cifar10-dirichlet-20260314-091502" in text
    assert "after 6 rounds" in text
    assert "--resume" not in Page(render(make_results(), "")).text


def test_figures_that_cannot_be_computed_are_dashes(make_results: Make) -> None:
    results = make_results()
    assert results.final is not None
    empty = dict.fromkeys(("loss", "accuracy", "balanced_accuracy", "precision", "recall", "f1", "roc_auc"))
    scores = results.sites[0].federated
    assert scores is not None
    blank = scores.model_copy(update={**empty, "calibration_error": None})
    sites = (results.sites[0].model_copy(update={"federated": blank}), *results.sites[1:])
    nothing = results.rounds[0].incoming.model_copy(
        update=dict.fromkeys(type(results.rounds[0].incoming).model_fields, None)
    )
    rounds = tuple(entry.model_copy(update={"incoming": nothing}) for entry in results.rounds)
    final = results.final.model_copy(update={"validation": nothing, "weighted_mean": blank})
    text = render(results.model_copy(update={"sites": sites, "rounds": rounds, "final": final}), "")
    assert "<td>\N{EN DASH}</td>" in text
    assert "Validation accuracy" not in Page(text).text
    Page(text)


def test_many_sites_show_the_worst_and_the_best(make_results: Make) -> None:
    text = render(make_results(names=tuple(f"site-{i}" for i in range(120)), rounds=2, baselines=True), "")
    wide = next(svg for svg in svgs(text) if "Accuracy on each site" in svg)
    assert len(re.findall(r"<g><title>", wide)) == 15
    assert "105 sites in between" in wide
    assert "All 120 sites" in text
    assert len(re.findall(r"<bdi title=\"site-", text)) == 240


def test_heat_maps_of_many_classes_have_no_text_in_cells(make_results: Make) -> None:
    few = next(svg for svg in svgs(render(make_results(), "")) if "Confusion" in svg)
    many = next(
        svg for svg in svgs(render(make_results(classes=tuple(f"c{i}" for i in range(21))), "")) if "Confusion" in svg
    )
    assert "cell " in few
    assert "cell " not in many


def test_absences_of_one_cause_are_one_row(make_results: Make) -> None:
    missing = {number: {"Visby": "did not answer"} for number in (3, 7, 8, 9)} | {4: {"Visby": "refused"}}
    text = Page(render(make_results(missing=missing), "")).text
    assert "3, 7\N{EN DASH}9" in text
    assert text.count("did not answer") == 1


def test_the_plan_is_shown_as_it_is(make_results: Make) -> None:
    assert 'name = "<x>" # ü' in Page(render(make_results(), 'name = "<x>" # ü')).text


def test_engine_ray_is_named_unisolated(make_results: Make) -> None:
    assert "not isolated" in render(make_results(engine="ray"), "")
    assert "not isolated" not in render(make_results(), "")


def contrast(first: str, second: str) -> float:
    """Contrast ratio of WCAG 2.2, definition of relative luminance."""

    def luminance(colour: str) -> float:
        channels = [int(colour[index : index + 2], 16) / 255 for index in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    lighter, darker = sorted((luminance(first), luminance(second)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def test_colours_can_be_told_from_their_ground_light_and_dark() -> None:
    source = Path(hansa_server.report.__file__).parent / "charts" / "charts.css"
    themes = re.findall(r":root, svg \{(.*?)\}", source.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(themes) == 2
    for theme in themes:
        colours = dict(re.findall(r"--([a-z]+): (#[0-9a-f]{6});", theme))
        assert contrast(colours["ink"], colours["paper"]) > 12
        assert contrast(colours["soft"], colours["paper"]) > 5.5
        for name in ("blue", "vermillion", "green", "purple", "heat"):
            assert contrast(colours[name], colours["paper"]) > 4


def test_the_report_imports_no_plotting_library() -> None:
    folder = Path(hansa_server.report.__file__).parent
    names = {
        alias.name.split(".")[0]
        for path in folder.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    assert "matplotlib" not in names


def test_the_reliability_diagram_stands_beside_its_figure(make_results: Make) -> None:
    text = render(make_results(), "")
    assert "95% sure, 91% right, 100 answers" in text
    assert "expected calibration error (ECE): 3.1%" in text
    results = make_results()
    assert results.final is not None
    unknown = results.model_copy(update={"final": results.final.model_copy(update={"reliability": ()})})
    assert "reliability" not in Page(render(unknown, "")).ids
