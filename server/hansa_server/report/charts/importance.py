"""What a model looks at: bars of named inputs, and heat grids of inputs that have a place."""

from collections.abc import Sequence

from hansa_server.report import notation
from hansa_server.report.charts.svg import drawing, element, shorten, text, text_width, title

BAR, BAR_GAP, GROUP_GAP = 11.0, 2.0, 10.0
VALUE_WIDTH, LEGEND_HEIGHT = 58.0, 30.0
MOST_SERIES = 3  # as charts.css has colours
MOST_SIDE, LEAST_CELL, MOST_CELL = 300.0, 4.0, 18.0  # px


def importance_chart(
    label: str, series: Sequence[str], rows: Sequence[tuple[str, Sequence[float]]], *, width: float
) -> str:
    """Draw horizontal bars below each other, from 0 to the largest value.

    Args:
        label: What the chart shows, for those who cannot see it.
        series: Name of each bar in a row, at most three.
        rows: Name and values, one for each of ``series``, in this order.
        width: Natural width.
    """
    names = [name for name, _values in rows]
    label_width = min(max((text_width(name) for name in names), default=0.0), 0.35 * width)
    left = label_width + 12
    span = width - left - VALUE_WIDTH
    largest = max((value for _name, values in rows for value in values), default=0.0) or 1.0
    top = LEGEND_HEIGHT if len(series) > 1 else 6.0
    height = len(series) * (BAR + BAR_GAP) - BAR_GAP
    parts = _legend(series) if len(series) > 1 else []
    y = top
    for name, values in rows:
        said = text(shorten(name, label_width), left - 12, y + height / 2 + 4, class_="label", text_anchor="end")
        parts.append(element("g", title(name), said))
        for index, (one, value) in enumerate(zip(series, values, strict=True)):
            place = y + index * (BAR + BAR_GAP)
            length = span * value / largest
            note = title(f"{name}, {one}: {notation.significant(value, 3)}")
            style = f"bar model-{index + 1}"
            parts += [
                element("rect", note, class_=style, x=left, y=place, width=length, height=BAR, rx=1.5),
                text(notation.significant(value, 3), left + length + 6, place + BAR - 1.5, class_="value"),
            ]
        y += height + GROUP_GAP
    axis = element("line", class_="axis", x1=left, x2=left, y1=top - 4, y2=y - GROUP_GAP + 4)
    return drawing(label, width, y - GROUP_GAP + 8, axis, *parts)


def heat_grid(label: str, values: Sequence[float], *, rows: int, least: float, largest: float) -> str:
    """Draw a grid of cells, row by row, the stronger the colour the larger.

    Args:
        label: What the grid shows, for those who cannot see it.
        values: Not negative, ``rows`` times as many as there are columns.
        rows: How many.
        least: The value without colour.
        largest: The value of full colour.
    """
    columns = len(values) // rows
    cell = max(LEAST_CELL, min(MOST_CELL, MOST_SIDE / max(rows, columns)))
    tall = cell if rows > 1 else 2 * MOST_CELL  # one row of steps is a ribbon
    cells = [
        element(
            "rect",
            class_="heat",
            x=1 + index % columns * cell,
            y=1 + index // columns * tall,
            width=cell,
            height=tall,
            opacity=(value - least) / (largest - least),
        )
        for index, value in enumerate(values)
        if value > least
    ]
    frame = element("rect", class_="frame", x=1, y=1, width=columns * cell, height=rows * tall)
    return drawing(label, columns * cell + 2, rows * tall + 2, *cells, frame)


def _legend(series: Sequence[str]) -> list[str]:
    parts: list[str] = []
    x = 0.0
    for index, name in enumerate(series):
        parts += [
            element("rect", class_=f"bar model-{index + 1}", x=x, y=2, width=12, height=12, rx=1.5),
            text(name, x + 18, 12.5, class_="legend"),
        ]
        x += 18 + text_width(name) + 18
    return parts
