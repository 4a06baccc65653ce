"""Bar chart: groups of horizontal bars, one group a site, one bar a model, from 0 to 100 % or another highest tick."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hansa_server.report import notation
from hansa_server.report.charts.svg import drawing, element, shorten, text, text_width, title

BAR, BAR_GAP, GROUP_GAP = 13.0, 3.0, 14.0
VALUE_WIDTH = 54.0
LEGEND_HEIGHT, AXIS_HEIGHT, REMARK_HEIGHT = 30.0, 22.0, 24.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """A site and its bars; ``values`` are fractions in the order of the chart's ``models``."""

    name: str
    values: tuple[float | None, ...]


def bar_chart(
    label: str,
    models: Sequence[str],
    groups: Sequence[Group | str],
    *,
    width: float,
    ticks: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 1.0),
    write: Callable[[float | None], str] = notation.percent,
    write_tick: Callable[[float], str] = lambda share: f"{100 * share:g}%",
) -> str:
    """Draw groups of bars below each other.

    Args:
        label: What the chart shows, for those who cannot see it.
        models: Name of each bar in a group, at most four.
        groups: In this order; a string is a remark between two groups.
        ticks: Values below the axis, evenly spaced from zero to that of the longest possible bar.
        write: Writes a value.
        write_tick: Writes a value below the axis.
        width: Natural width; a page shows a narrow one on a phone, where a wide one would be shrunk beyond reading.
    """
    names = [group.name for group in groups if isinstance(group, Group)]
    label_width = min(max((text_width(name) for name in names), default=0.0), 0.3 * width)
    left = label_width + 12
    span = width - left - VALUE_WIDTH
    group_height = len(models) * (BAR + BAR_GAP) - BAR_GAP
    top = LEGEND_HEIGHT if len(models) > 1 else 6.0
    parts: list[str] = []
    y = top
    for group in groups:
        if isinstance(group, str):
            parts.append(text(group, left, y + 12, class_="caption"))
            y += REMARK_HEIGHT
            continue
        middle = y + group_height / 2 + 4
        name = text(shorten(group.name, label_width), left - 12, middle, class_="label", text_anchor="end")
        parts += [
            element("g", title(group.name), name),
            *_bars(group, models, (left, y, span / ticks[-1]), write),
        ]
        y += group_height + GROUP_GAP
    bottom = y - GROUP_GAP + 6
    grid = _grid(left, span, top, bottom, [write_tick(tick) for tick in ticks])
    legend = _legend(models, width) if len(models) > 1 else []
    return drawing(label, width, bottom + AXIS_HEIGHT, *grid, *legend, *parts)


def _bars(
    group: Group, models: Sequence[str], place: tuple[float, float, float], write: Callable[[float | None], str]
) -> list[str]:
    left, top, span = place
    parts = []
    for index, (model, value) in enumerate(zip(models, group.values, strict=True)):
        y = top + index * (BAR + BAR_GAP)
        length = span * (value or 0.0)
        parts += [
            element(
                "rect",
                title(f"{group.name}, {model}: {write(value)}"),
                class_=f"bar model-{index + 1}",
                x=left,
                y=y,
                width=length,
                height=BAR,
                rx=1.5,
            ),
            text(write(value), left + length + 6, y + BAR - 2.5, class_="value"),
        ]
    return parts


def _grid(left: float, span: float, top: float, bottom: float, ticks: Sequence[str]) -> list[str]:
    parts = []
    for number, tick in enumerate(ticks):
        x = left + span * number / (len(ticks) - 1)
        kind = "grid" if number else "axis"
        parts += [
            element("line", class_=kind, x1=x, x2=x, y1=top - 4, y2=bottom),
            text(tick, x, bottom + 16, class_="tick", text_anchor="middle"),
        ]
    return parts


def _legend(models: Sequence[str], width: float) -> list[str]:
    needed = sum(18 + text_width(model) for model in models)
    gap = min(18.0, max(4.0, (width - needed) / (len(models) - 1)))
    parts: list[str] = []
    x = 0.0
    for index, model in enumerate(models):
        parts += [
            element("rect", class_=f"bar model-{index + 1}", x=x, y=2, width=12, height=12, rx=1.5),
            text(model, x + 18, 12.5, class_="legend"),
        ]
        x += 18 + text_width(model) + gap
    return parts
