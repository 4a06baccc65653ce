"""Spread chart: one row a thing, a dot for each seed, a line from the lowest to the highest, a mark at the mean."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

from hansa_server.report.charts.svg import drawing, element, nice_ticks, shorten, text, text_width, title

ROW, AXIS_HEIGHT, TOP = 26.0, 24.0, 6.0
VALUE_WIDTH = 64.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SpreadRow:
    """One row; ``values`` are those of the seeds, none where nothing is known."""

    name: str
    values: tuple[float, ...]
    notes: tuple[str, ...] = ()
    """For each value, shown where a pointer rests."""


def spread_chart(
    label: str,
    rows: Sequence[SpreadRow],
    *,
    width: float,
    write: Callable[[float | None], str],
    write_tick: Callable[[float], str],
    zero: bool = False,
) -> str:
    """Draw rows below each other; an empty string where no row has a value.

    Args:
        label: What the chart shows, for those who cannot see it.
        rows: In this order.
        width: Natural width.
        write: Writes a mean at the end of its row, and a value where a pointer rests.
        write_tick: Writes a value at the axis.
        zero: Whether the axis has zero in it, and marks it.
    """
    values = [value for row in rows for value in row.values]
    if not values:
        return ""
    ticks = nice_ticks(min([*values, 0.0] if zero else values), max([*values, 0.0] if zero else values))
    label_width = min(max(text_width(row.name) for row in rows), 0.4 * width)
    left, right = label_width + 20, width - VALUE_WIDTH
    bottom = TOP + ROW * len(rows)

    def x_of(value: float) -> float:
        return left + (value - ticks[0]) / (ticks[-1] - ticks[0]) * (right - left)

    parts: list[str] = []
    widest = max(text_width(write_tick(tick)) for tick in ticks) + 8
    every = max(1, round(0.5 + widest * len(ticks) / (right - left)))
    for index, tick in enumerate(ticks):
        x = x_of(tick)
        style = "axis" if zero and tick == 0.0 else "grid"
        parts.append(element("line", class_=style, x1=x, x2=x, y1=TOP, y2=bottom))
        if index % every == 0:
            parts.append(text(write_tick(tick), x, bottom + 16, class_="tick", text_anchor="middle"))
    for number, row in enumerate(rows):
        y = TOP + ROW * (number + 0.5)
        name = text(shorten(row.name, label_width), left - 20, y + 4, class_="label", text_anchor="end")
        parts.append(element("g", title(row.name), name))
        parts += _row(row, y, x_of, write)
        mean = fmean(row.values) if row.values else None
        parts.append(text(write(mean), right + 12, y + 4, class_="value"))
    return drawing(label, width, bottom + AXIS_HEIGHT, *parts)


def _row(row: SpreadRow, y: float, x_of: Callable[[float], float], write: Callable[[float | None], str]) -> list[str]:
    if not row.values:
        return []
    parts = [
        element("line", class_="line second", x1=x_of(min(row.values)), x2=x_of(max(row.values)), y1=y, y2=y),
    ]
    notes = row.notes or ("",) * len(row.values)
    for value, note in zip(row.values, notes, strict=True):
        shown = f"{row.name}: {write(value)}" + (f", {note}" if note else "")
        parts.append(element("circle", title(shown), class_="dot second", cx=x_of(value), cy=y, r=3.0))
    mean = x_of(fmean(row.values))
    mark = title(f"{row.name}, mean: {write(fmean(row.values))}")
    parts.append(element("rect", mark, class_="mark", x=mean - 2, y=y - 8, width=4.0, height=16.0))
    return parts
