import xml.etree.ElementTree as ET

import pytest

from hansa_server.report.charts import Group, bar_chart

NS = "{http://www.w3.org/2000/svg}"


def test_length_is_the_value_and_a_missing_one_has_a_dash() -> None:
    svg = bar_chart(
        "label",
        ["A", "B"],
        [Group(name="x", values=(0.5, None)), "between", Group(name="y", values=(1.0, 0.0))],
        width=500,
    )
    root = ET.fromstring(svg)
    bars = [rect for rect in root.iter(f"{NS}rect") if rect.find(f"{NS}title") is not None]
    widths = [float(bar.get("width", "nan")) for bar in bars]
    assert widths[2] == pytest.approx(2 * widths[0], abs=0.02)
    assert widths[1] == widths[3] == 0
    texts = [entry.text for entry in root.iter(f"{NS}text")]
    assert "between" in texts
    assert "\N{EN DASH}" in texts


def test_bars_stay_inside_the_picture_whatever_the_names() -> None:
    root = ET.fromstring(bar_chart("label", ["A"], [Group(name="n" * 300, values=(1.0,))], width=360))
    for bar in root.iter(f"{NS}rect"):
        assert float(bar.get("x", "0")) + float(bar.get("width", "0")) < 360 - 40
