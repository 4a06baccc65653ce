import re
import xml.etree.ElementTree as ET

import pytest

from hansa_server.report.charts import Point, Series, line_chart

NS = "{http://www.w3.org/2000/svg}"


def chart(*values: float | None, **options: object) -> str:
    points = tuple(Point(x=index, y=value) for index, value in enumerate(values))
    settings: dict[str, object] = {"width": 400.0, "x_label": "round", "write": str, "write_tick": str} | options
    return line_chart("label", [Series(name="line", points=points, style="first")], **settings)  # type: ignore[arg-type]


def path(svg: str) -> str:
    found = ET.fromstring(svg).find(f"{NS}path")
    assert found is not None
    return found.get("d", "")


def test_points_lie_where_the_axis_says() -> None:
    svg = chart(0.0, 0.5, 1.0, highest=1.0)
    pairs = [tuple(map(float, pair)) for pair in re.findall(r"[ML]([\d.]+) ([\d.]+)", path(svg))]
    (x0, y0), (x1, y1), (x2, y2) = pairs
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2)
    assert y0 - y1 == pytest.approx(y1 - y2, abs=0.2)
    assert y0 > y1 > y2
    lines = [float(line.get("y1", "0")) for line in ET.fromstring(svg).iter(f"{NS}line") if line.get("x1")]
    assert any(line == pytest.approx(y2, abs=0.2) for line in lines)


def test_a_missing_value_breaks_the_line() -> None:
    assert path(chart(0.1, 0.2, None, 0.3, 0.4)).count("M") == 2


def test_nothing_measured_draws_nothing() -> None:
    assert chart(None, None) == ""
    assert chart() == ""


@pytest.mark.parametrize("values", [(0.0,), (1.0, 1.0), (0.999, 1.0), (1e-9, 2e-9), (5e8, 1e9)])
def test_flat_tiny_and_huge_values_are_drawn(values: tuple[float, ...]) -> None:
    assert path(chart(*values, highest=max(1.0, *values)))


def test_a_long_series_is_thinned_and_keeps_its_end() -> None:
    svg = chart(*(float(index) for index in range(10_001)))
    assert path(svg).count("L") < 410
    assert "round 10000" in svg


def test_pointers_find_all_values_of_a_round() -> None:
    titles = [entry.text for entry in ET.fromstring(chart(0.25, 0.5)).iter(f"{NS}title")]
    assert titles == ["round 0\nline 0.25", "round 1\nline 0.5"]
