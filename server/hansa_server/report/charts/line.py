"""Line chart: one figure of several models over the rounds."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from hansa_server.report.charts.svg import drawing, element, nice_ticks, text, text_width, title

HEIGHT = 264.0
RIGHT, BOTTOM = 12.0, 42.0
LEGEND_LINE, SWATCH = 20.0, 18.0
MOST_POINTS = 400
"""More points than pixels only make the file larger: of a longer series every n-th is drawn, and the last."""
MARKED_POINTS = 2
"""A series this short has a dot on each point, as a line alone would hardly be seen."""

Style = Literal["first", "second", "third"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One value; ``None`` leaves a gap. ``note`` is added where a pointer rests."""

    x: int
    y: float | None
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One line. The style is a colour and a pattern of dashes, so it is told apart without colour too."""

    name: str
    points: tuple[Point, ...]
    style: Style


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scale:
    """From values to pixels."""

    x_ticks: tuple[float, ...]
    y_ticks: tuple[float, ...]
    left: float
    right: float
    top: float

    def x(self, value: float) -> float:
        first, last = self.x_ticks[0], self.x_ticks[-1]
        return self.left + (value - first) / (last - first) * (self.right - self.left)

    def y(self, value: float) -> float:
        low, high = self.y_ticks[0], self.y_ticks[-1]
        return HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - BOTTOM - self.top)


def line_chart(
    label: str,
    series: Sequence[Series],
    *,
    width: float,
    x_label: str,
    write: Callable[[float | None], str],
    write_tick: Callable[[float], str],
    from_zero: bool = False,
    highest: float | None = None,
    last_values: bool = True,
) -> str:
    """Draw lines over whole numbers; an empty string where no series has a value.

    Args:
        label: What the chart shows, for those who cannot see it.
        series: At most three, drawn in reverse order so that the first lies on top.
        width: Natural width; a page shows a narrow one on a phone, where a wide one would be shrunk beyond reading.
        x_label: Under the axis.
        write: Writes a value in the legend and where a pointer rests.
        write_tick: Writes a value at the vertical axis.
        from_zero: Whether the vertical axis starts at zero.
        highest: The axis never passes this value.
        last_values: Whether the legend has each line's last value.
    """
    lines = [_thin(line) for line in series if any(point.y is not None for point in line.points)]
    values = [point.y for line in lines for point in line.points if point.y is not None]
    if not values:
        return ""
    legend, top = _legend(lines, write if last_values else lambda _value: "", width)
    low = 0.0 if from_zero else min(values)
    y_ticks = nice_ticks(low, max(*values, low))
    if highest is not None:
        y_ticks = tuple(tick for tick in y_ticks if tick <= highest) if y_ticks[0] < highest else (0.0, highest)
    if not from_zero and min(values) >= 0:
        y_ticks = tuple(tick for tick in y_ticks if tick >= 0)
    left = max(text_width(write_tick(tick)) for tick in y_ticks) + 8
    positions = [point.x for line in lines for point in line.points]
    scale = _Scale(
        x_ticks=_x_ticks(min(positions), max(positions)), y_ticks=y_ticks, left=left, right=width - RIGHT, top=top
    )
    return drawing(
        label,
        width,
        HEIGHT,
        *legend,
        *_axes(scale, x_label, write_tick),
        *(_path(line, scale) for line in reversed(lines)),
        *_hover(lines, scale, x_label, write),
    )


def _thin(line: Series) -> Series:
    stride = -(-len(line.points) // MOST_POINTS)
    if stride <= 1:
        return line
    kept = line.points[::stride]
    kept = kept if kept[-1] is line.points[-1] else (*kept, line.points[-1])
    return Series(name=line.name, points=kept, style=line.style)


def _x_ticks(first: int, last: int) -> tuple[float, ...]:
    """Whole numbers only, and the axis ends where the data ends."""
    if first == last:
        return (first - 0.5, float(first), first + 0.5)
    inner = [tick for tick in nice_ticks(first, last, most=8) if first < tick < last and tick == int(tick)]
    return (float(first), *inner, float(last))


def _axes(scale: _Scale, x_label: str, write_tick: Callable[[float], str]) -> list[str]:
    parts = []
    for tick in scale.y_ticks:
        y = scale.y(tick)
        parts += [
            element(
                "line", class_="grid" if tick != scale.y_ticks[0] else "axis", x1=scale.left, x2=scale.right, y1=y, y2=y
            ),
            text(write_tick(tick), scale.left - 8, y + 4, class_="tick", text_anchor="end"),
        ]
    base = HEIGHT - BOTTOM
    whole = [tick for tick in scale.x_ticks if tick == int(tick)]
    for tick in whole:
        crowded = tick not in (whole[0], whole[-1]) and min(tick - whole[0], whole[-1] - tick) < 0.07 * (
            whole[-1] - whole[0]
        )
        if not crowded:
            parts.append(text(f"{tick:,.0f}", scale.x(tick), base + 17, class_="tick", text_anchor="middle"))
    middle = (scale.left + scale.right) / 2
    return [*parts, text(x_label, middle, HEIGHT - 6, class_="caption", text_anchor="middle")]


def _legend(lines: Sequence[Series], write: Callable[[float | None], str], width: float) -> tuple[list[str], float]:
    """Return the legend with each line's last value, and where the plot may begin below it."""
    parts: list[str] = []
    x, y = 0.0, 12.0
    for line in lines:
        last = next(point.y for point in reversed(line.points) if point.y is not None)
        entry = f"{line.name} {write(last)}".rstrip()
        needed = SWATCH + 5 + text_width(entry)
        if x > 0 and x + needed > width:
            x, y = 0.0, y + LEGEND_LINE
        swatch = element("line", class_=f"line {line.style}", x1=x + 1, x2=x + SWATCH, y1=y - 4, y2=y - 4)
        parts += [swatch, text(entry, x + SWATCH + 5, y, class_="legend")]
        x += needed + 8
    return parts, y + 16


def _path(line: Series, scale: _Scale) -> str:
    """Draw the line, broken where a value is missing, and a dot on its last point."""
    runs: list[list[Point]] = [[]]
    for point in line.points:
        if point.y is None:
            runs.append([])
        else:
            runs[-1].append(point)
    runs = [run for run in runs if run]
    commands = " ".join(
        f"{'M' if index == 0 else 'L'}{scale.x(point.x):.1f} {scale.y(point.y or 0.0):.1f}"
        for run in runs
        for index, point in enumerate(run)
    )
    dots = {run[0].x: run[0] for run in runs if len(run) <= MARKED_POINTS} | {runs[-1][-1].x: runs[-1][-1]}
    return element("path", class_=f"line {line.style}", d=commands) + "".join(
        element("circle", class_=f"dot {line.style}", cx=scale.x(dot.x), cy=scale.y(dot.y or 0.0), r=3.0)
        for dot in dots.values()
    )


def _hover(lines: Sequence[Series], scale: _Scale, x_label: str, write: Callable[[float | None], str]) -> list[str]:
    """One invisible column a round, which shows all its values where a pointer rests."""
    at: dict[int, list[str]] = {}
    for line in lines:
        for point in line.points:
            note = f" ({point.note})" if point.note else ""
            at.setdefault(point.x, []).append(f"{line.name} {write(point.y)}{note}")
    half = (scale.right - scale.left) / (2 * max(len(at) - 1, 1))
    return [
        element(
            "rect",
            title(f"{x_label} {x}\n" + "\n".join(entries)),
            class_="hover",
            x=max(scale.x(x) - half, scale.left),
            y=scale.top,
            width=2 * half,
            height=HEIGHT - BOTTOM - scale.top,
        )
        for x, entries in sorted(at.items())
    ]
