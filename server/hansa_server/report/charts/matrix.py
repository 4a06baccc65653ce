"""Matrices: who holds what (sites x classes), confusions (true x predicted classes), models x sites.

Shade is an opacity of one colour. A matrix with many classes becomes a heat map without text.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hansa_server.report import notation
from hansa_server.report.charts.svg import drawing, element, shorten, text, text_width, title

MOST_CLASSES_WITH_TEXT = 20
MOST_SITES_WITH_CIRCLES = 30
MOST_SITES = 200
"""A picture of more sites cannot be read: the largest ones are drawn, and a remark says so."""
MOST_CLASSES = 200
"""A confusion matrix of more classes has cells below two pixels."""
MOST_TITLES = 4_000
"""What a pointer shows costs about 100 bytes a cell."""
DARK_SHADE = 0.7
"""From this opacity on, text in a cell takes the page's colour: charts.css chooses the shades for this contrast."""
ROOM_FOR_NAMES = 480.0  # px; few columns grow until their names stand upright
HEADER_ANGLE = 40.0  # degrees
MOST_LABEL = 170.0  # px
MIN_NAMED_HEIGHT = 15.0  # px; a name of 12 px needs as much


_Place = tuple[int, int]  # row, column


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layout:
    """Where the cells lie. ``turned``: the columns' names are too long to stand upright."""

    left: float
    top: float
    cell_width: float
    cell_height: float
    named: bool
    turned: bool
    right: float

    def x(self, column: float) -> float:
        return self.left + column * self.cell_width

    def y(self, row: float) -> float:
        return self.top + row * self.cell_height


def partition_chart(
    names: Sequence[str], class_counts: Sequence[Sequence[int]], classes: Sequence[str], *, style: str = ""
) -> str:
    """Draw who holds what: a row a site, a column a class, a circle whose area is the number of examples.

    With more than 20 classes or 30 sites it is a heat map, as circles would be dots. Totals stand right and below.

    Args:
        names: ``S`` sites.
        class_counts: ``[S][K]`` numbers of examples.
        classes: ``K`` class names.
        style: A style sheet to put inside, which makes it a file of its own.
    """
    totals = [sum(column) for column in zip(*class_counts, strict=True)] or [0] * len(classes)
    rows, remark = _drawn_rows(names, class_counts)
    largest = max((count for _, counts in rows for count in counts), default=0)
    circles = len(classes) <= MOST_CLASSES_WITH_TEXT and len(rows) <= MOST_SITES_WITH_CIRCLES
    margin = 16.0 if style else 0.0
    layout = _lay_out(
        [name for name, _ in rows],
        classes,
        cell=(44.0, 38.0 if circles else 17.0),
        right=64.0,
        margin=margin,
        heads=0.0,
    )
    draw = _circle if circles else _shaded
    few = len(rows) * len(classes) <= MOST_TITLES
    cells = [
        draw(
            layout, (row, column), count / largest, f"{name}, {classes[column]}: {notation.count(count)}" if few else ""
        )
        for row, (name, counts) in enumerate(rows)
        for column, count in enumerate(counts)
        if count
    ]
    label = f"Who holds what: {notation.plural(len(names), 'site')} and {notation.plural(len(classes), 'class')}"
    height = layout.y(len(rows)) + 30 + (20 if remark else 0) + margin
    caption = [text(remark, layout.left, height - margin - 6, class_="caption")] if remark else []
    width = max(layout.x(len(classes)) + layout.right, layout.left + text_width(remark)) + margin
    return drawing(
        label,
        width,
        height,
        *_headers(layout, [name for name, _ in rows], classes),
        *_rules(layout, len(rows), len(classes)),
        *cells,
        *_totals(layout, [sum(counts) for _, counts in rows], totals),
        *caption,
        style=style,
    )


def confusion_chart(confusion: Sequence[Sequence[int]], classes: Sequence[str]) -> str:
    """Draw a confusion matrix: rows are true classes, columns predicted ones, shade is the share of the row.

    Up to 20 classes each cell holds its count; above it is a heat map. An empty string above 200 classes.
    """
    num_classes = len(classes)
    if num_classes > MOST_CLASSES:
        return ""
    named = num_classes <= MOST_CLASSES_WITH_TEXT
    side = 42.0 if named else max(3.0, min(16.0, 480.0 / num_classes))
    widest = (
        max((text_width(notation.count(count)) for row in confusion for count in row), default=0.0) if named else 0.0
    )
    layout = _lay_out(classes, classes, cell=(max(side, widest + 10), min(side, 34.0) if named else side), heads=20.0)
    few = sum(bool(count) for row in confusion for count in row) <= MOST_TITLES
    parts = []
    for row, counts in enumerate(confusion):
        total = sum(counts)
        for column, count in enumerate(counts):
            note = f"{classes[row]} taken for {classes[column]}: {notation.count(count)} of {notation.count(total)}"
            parts.append(_confusion_cell(layout, (row, column), count, total, note if few else ""))
    axis = "predicted class →"
    axes = [
        text(axis, layout.left, 12, class_="caption"),
        text("true class ↓", layout.left - 10, 12, class_="caption", text_anchor="end"),
    ]
    frame = element(
        "rect",
        class_="frame",
        x=layout.left,
        y=layout.top,
        width=num_classes * layout.cell_width,
        height=num_classes * layout.cell_height,
    )
    return drawing(
        f"Confusion matrix of {notation.plural(num_classes, 'class')}, all sites' test examples together",
        max(layout.x(num_classes) + layout.right + 1, layout.left + text_width(axis)),
        layout.y(num_classes) + 6,
        *axes,
        *_headers(layout, classes, classes),
        *parts,
        frame,
    )


def cross_site_chart(
    label: str,
    models: Sequence[str],
    sites: Sequence[str],
    values: Sequence[Sequence[float | None]],
    *,
    is_higher_better: bool,
    write: Callable[[float | None], str],
) -> str:
    """Draw every model at every site: the darker a cell, the better the model does there.

    Up to 20 sites each cell holds its figure. A cell without one stays empty.

    Args:
        label: What the chart shows, for those who cannot see it.
        models: ``M`` rows.
        sites: ``S`` columns.
        values: ``[M][S]`` figures.
        is_higher_better: Of the figure.
        write: Writes a figure.
    """
    named = len(sites) <= MOST_CLASSES_WITH_TEXT
    found = [value for row in values for value in row if value is not None]
    worst, best = (min(found, default=0.0), max(found, default=0.0))[:: 1 if is_higher_better else -1]
    widest = max((text_width(write(value)) for value in found), default=0.0) if named else 0.0
    layout = _lay_out(models, sites, cell=(max(52.0, widest + 10), 34.0 if named else 17.0), heads=20.0)
    cells = [
        _cross_site_cell(
            layout,
            (row, column),
            (value - worst) / (best - worst) if best != worst else 0.5,
            write(value),
            note=f"Model of {model}, tested at {site}: {write(value)}",
        )
        for row, (model, of_model) in enumerate(zip(models, values, strict=True))
        for column, (site, value) in enumerate(zip(sites, of_model, strict=True))
        if value is not None
    ]
    axes = [
        text("tested at →", layout.left, 12, class_="caption"),
        text("model of ↓", layout.left - 10, 12, class_="caption", text_anchor="end"),
    ]
    return drawing(
        label,
        layout.x(len(sites)) + layout.right + 1,
        layout.y(len(models)) + 6,
        *axes,
        *_headers(layout, models, sites),
        *_rules(layout, len(models), len(sites)),
        *cells,
    )


def _cross_site_cell(layout: _Layout, place: _Place, share: float, written: str, *, note: str) -> str:
    """Return a cell whose shade is its place between the worst and the best figure."""
    shade = 0.06 + 0.94 * share
    cell = _cell(layout, place, shade, note)
    if not layout.named:
        return cell
    x, y = layout.x(place[1] + 0.5), layout.y(place[0] + 0.5) + 4
    style = "reversed" if shade >= DARK_SHADE else "value"
    return cell + text(written, x, y, class_=f"cell {style}", text_anchor="middle")


def _drawn_rows(
    names: Sequence[str], class_counts: Sequence[Sequence[int]]
) -> tuple[list[tuple[str, Sequence[int]]], str]:
    rows = list(zip(names, class_counts, strict=True))
    if len(rows) <= MOST_SITES:
        return rows, ""
    largest = sorted(range(len(rows)), key=lambda index: -sum(rows[index][1]))[:MOST_SITES]
    remark = f"The {MOST_SITES} largest of {notation.count(len(rows))} sites; totals are over all."
    return [rows[index] for index in sorted(largest)], remark


def _lay_out(
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    cell: tuple[float, float],
    heads: float,
    right: float = 0.0,
    margin: float = 0.0,
) -> _Layout:
    """Make room for the names; above 20 columns they have none, and cells shrink."""
    named = len(columns) <= MOST_CLASSES_WITH_TEXT
    cell_width, cell_height = cell if named else (min(cell[0], max(3.0, min(16.0, 640.0 / len(columns)))), cell[1])
    rows_named = cell_height >= MIN_NAMED_HEIGHT
    label = min(max((text_width(name) for name in rows), default=0.0), MOST_LABEL) if rows_named else 0.0
    widest = min(max((text_width(name) for name in columns), default=0.0), MOST_LABEL) if named else 0.0
    if named:
        cell_width = max(cell_width, min(widest + 12, ROOM_FOR_NAMES / len(columns)))
    turned = widest > cell_width - 6
    angle = math.radians(HEADER_ANGLE)
    header = (widest * math.sin(angle) + 16 if turned else 22.0) if named else 24.0
    overhang = max(0.0, widest * math.cos(angle) - cell_width / 2 + 8) if turned else 0.0
    return _Layout(
        left=margin + max(label + 12, 84.0),
        top=margin + heads + header,
        cell_width=cell_width,
        cell_height=cell_height,
        named=named,
        turned=turned,
        right=max(right, overhang),
    )


def _headers(layout: _Layout, rows: Sequence[str], columns: Sequence[str]) -> list[str]:
    parts = []
    if layout.cell_height >= MIN_NAMED_HEIGHT:
        for row, name in enumerate(rows):
            y = layout.y(row + 0.5) + 4
            shown = text(shorten(name, layout.left - 12), layout.left - 10, y, class_="label", text_anchor="end")
            parts.append(element("g", title(name), shown))
    if not layout.named:
        span = f"{columns[0]} … {columns[-1]} ({len(columns)} classes)"
        return [*parts, text(span, layout.left, layout.top - 8, class_="tick")]
    for column, name in enumerate(columns):
        x, y = layout.x(column + 0.5), layout.top - 8
        if layout.turned:
            place = {"transform": f"rotate(-{HEADER_ANGLE:.0f} {x:.1f} {y:.1f})"}
        else:
            place = {"text_anchor": "middle"}
        shown = text(shorten(name, MOST_LABEL), x, y, class_="label", **place)
        parts.append(element("g", title(name), shown))
    return parts


def _rules(layout: _Layout, num_rows: int, num_columns: int) -> list[str]:
    rows = range(num_rows + 1) if layout.named else (0, num_rows)
    return [
        element(
            "line",
            class_="grid",
            x1=layout.left,
            x2=layout.x(num_columns),
            y1=layout.y(row),
            y2=layout.y(row),
        )
        for row in rows
    ]


def _totals(layout: _Layout, of_rows: Sequence[int], of_columns: Sequence[int]) -> list[str]:
    x, y = layout.x(len(of_columns)) + 56, layout.y(len(of_rows)) + 18
    parts = [text("total", x, layout.top - 8, class_="tick", text_anchor="end")] if not layout.turned else []
    parts += [
        text(notation.count(total), x, layout.y(row + 0.5) + 4, class_="value", text_anchor="end")
        for row, total in enumerate(of_rows)
    ]
    if layout.named:
        parts.append(text("total", layout.left - 10, y, class_="tick", text_anchor="end"))
        parts += [
            text(notation.count(total), layout.x(column + 0.5), y, class_="value", text_anchor="middle")
            for column, total in enumerate(of_columns)
        ]
    parts.append(text(notation.count(sum(of_columns)), x, y, class_="value strong", text_anchor="end"))
    return parts


def _circle(layout: _Layout, place: _Place, share: float, note: str) -> str:
    """Area, not radius, is the number of examples; one example can still be seen."""
    row, column = place
    radius = max(1.2, 17.0 * math.sqrt(share))
    circle = element("circle", class_="mark", cx=layout.x(column + 0.5), cy=layout.y(row + 0.5), r=radius)
    hover = element(
        "rect",
        class_="hover",
        x=layout.x(column),
        y=layout.y(row),
        width=layout.cell_width,
        height=layout.cell_height,
    )
    return element("g", title(note), circle, hover)


def _shaded(layout: _Layout, place: _Place, share: float, note: str) -> str:
    """Shade is the square root of the share of the largest cell: small holdings can still be seen."""
    return _cell(layout, place, 0.06 + 0.94 * math.sqrt(share), note)


def _confusion_cell(layout: _Layout, place: _Place, count: int, total: int, note: str) -> str:
    share = count / total if total else 0.0
    cell = _cell(layout, place, share, note) if count else ""
    if not layout.named:
        return cell
    kind = "zero" if not count else "reversed" if share >= DARK_SHADE else "value"
    x, y = layout.x(place[1] + 0.5), layout.y(place[0] + 0.5) + 4
    return cell + text(notation.count(count), x, y, class_=f"cell {kind}", text_anchor="middle")


def _cell(layout: _Layout, place: _Place, opacity: float, note: str) -> str:
    children = (title(note),) if note else ()
    return element(
        "rect",
        *children,
        class_="heat",
        x=layout.x(place[1]),
        y=layout.y(place[0]),
        width=layout.cell_width,
        height=layout.cell_height,
        fill_opacity=opacity,
    )
