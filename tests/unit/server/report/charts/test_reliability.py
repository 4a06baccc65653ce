import xml.etree.ElementTree as ET

from hansa_server.report.charts import reliability_chart

NS = "{http://www.w3.org/2000/svg}"


def draw(bins: list[tuple[float, float, int]]) -> ET.Element:
    chart = reliability_chart("x", bins, write=lambda share: f"{100 * share:.0f}%", count=lambda number: f"{number} a")
    return ET.fromstring(chart)


def test_a_model_that_can_be_believed_lies_on_the_diagonal() -> None:
    root = draw([(0.25, 0.25, 5), (0.5, 0.5, 10), (1.0, 1.0, 20)])
    diagonal = next(line for line in root.iter(f"{NS}line") if line.get("class") == "line second")
    x1, x2, y1, y2 = (float(diagonal.get(name, "")) for name in ("x1", "x2", "y1", "y2"))
    for circle, share in zip(root.iter(f"{NS}circle"), (0.25, 0.5, 1.0), strict=True):
        assert float(circle.get("cx", "")) == x1 + share * (x2 - x1)
        assert float(circle.get("cy", "")) == y1 + share * (y2 - y1)


def test_a_model_that_is_too_sure_lies_below_it_and_bars_are_answers() -> None:
    root = draw([(0.5, 0.25, 5), (0.75, 0.5, 20)])
    circles = list(root.iter(f"{NS}circle"))
    fair = list(draw([(0.5, 0.5, 5), (0.75, 0.75, 20)]).iter(f"{NS}circle"))
    for circle, other in zip(circles, fair, strict=True):
        assert float(circle.get("cy", "")) > float(other.get("cy", ""))
    assert [circle.findtext(f"{NS}title") for circle in circles] == [
        "50% sure, 25% right, 5 a",
        "75% sure, 50% right, 20 a",
    ]
    heights = [float(rect.get("height", "")) for rect in root.iter(f"{NS}rect")]
    assert heights[1] == 4 * heights[0]


def test_without_answers_there_is_nothing_to_draw() -> None:
    assert reliability_chart("x", [], write=str, count=str) == ""
