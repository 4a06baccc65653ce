"""The report's section on why the model answers as it does: charts of what the sites' sums say, and examples.

Examples are shown only of a simulation whose plan says so; the files were written on this machine.
"""

import base64
import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from hansa_common.plan import StudyPlan
from hansa_server.report import notation
from hansa_server.report.charts import heat_grid, importance_chart
from hansa_server.report.charts.importance import MOST_SERIES
from hansa_server.results import Explanation, ExplanationView, Results

ROWS_SHOWN = 15
CLASSES_SHOWN = 20
PICTURES_SHOWN = 24
WIDE, NARROW = 760.0, 360.0  # px
_METHODS = {
    "integrated_gradients": "integrated gradients (Sundararajan and others, 2017)",
    "grad_cam": "Grad-CAM (Selvaraju and others, 2017)",
    "shapley": "Shapley values by sampled permutations (Castro and others, 2009)",
}
_VIEWS = {"columns": "Columns", "features": "Features", "steps": "Time steps", "cells": "Where in the image"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """An image and what the model looked at in it; data URLs."""

    caption: str
    image: str
    overlay: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """One chart, wide and narrow; the same where it is small."""

    name: str
    wide: str
    narrow: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One view: a chart over all, and charts by class."""

    name: str
    remark: str
    overall: Chart | None
    by_class: Sequence[Chart]


def parts(results: Results) -> list[Part]:
    """Return the section's charts; none where nothing was explained."""
    found = results.explanation
    if found is None or not any(found.explained):
        return []
    return [_grid(view, found) if view.rows else _bars(view, found) for view in found.views]


def sentence(results: Results) -> str:
    """Say what was explained, how, and what is missing; empty where the plan asks for nothing."""
    found = results.explanation
    if found is None:
        return ""
    number = sum(found.explained)
    if not number:
        return "Nothing was explained: no site let out sums over enough examples."
    whose = {
        "classes": "the score of an example's own class",
        "number": "the number that is predicted",
        "survival": "the log hazard that is predicted",
        "reconstruction": "what is predicted",
    }[results.target]
    words = (
        f"How much each input raised or lowered {whose}, by {_METHODS[found.method]}, over "
        f"{notation.plural(number, 'example')} of the sites' {found.split} splits. The sites computed it and let only "
        f"sums out."
    )
    hidden = [name for name, count in zip(found.scores, found.explained, strict=True) if not count]
    if hidden:
        words += f" Left out for fewer than {found.minimum_examples} examples at a site: {_some(hidden)}."
    if found.unexplained:
        words += f" Not in it: {_some(list(found.unexplained))}."
    return words


def strongest(results: Results, most: int = 5) -> list[str]:
    """Return the names of the inputs that matter most over all explained classes; none where inputs have places."""
    found = results.explanation
    if found is None or not any(found.explained) or found.views[0].rows:
        return []
    overall = _overall(found.views[0], found)
    order = sorted(range(len(overall)), key=lambda index: -overall[index])
    return [found.views[0].labels[index] for index in order[:most]]


def load_pictures(folder: Path, plan: StudyPlan) -> list[Picture]:
    """Return examples of a simulation's sites, where the plan says that they may be shown."""
    explain = plan.evaluation.explain
    if explain is None or not explain.show_examples or plan.simulation is None:
        return []
    return list(islice(_pictures(folder / "explanations"), PICTURES_SHOWN))


def _pictures(folder: Path) -> Iterator[Picture]:
    """Yield the sites' first pictures, then their second ones, and so on."""
    captions: dict[Path, dict[str, str]] = {}
    images = sorted(folder.glob("*/*-image.png"), key=lambda path: (path.name, path.parent.name))
    for image in images:
        overlay = image.with_name(image.name.replace("-image", "-overlay"))
        if overlay.is_file():
            said = captions.setdefault(image.parent, _captions(image.with_name("examples.csv")))
            caption = ": ".join(filter(None, [image.parent.name[4:], said.get(image.name[:3], "")]))
            yield Picture(caption=caption, image=_url(image), overlay=_url(overlay))


def _captions(path: Path) -> dict[str, str]:
    """Return by number, ``001``, what each kept example is and what the model took it for."""
    if not path.is_file():
        return {}
    with path.open(encoding="utf-8", newline="") as lines:
        return {
            f"{int(row['example']):03d}": row["truth"]
            + ("" if row["predicted"] == row["truth"] else f", taken for {row['predicted']}")
            for row in csv.DictReader(lines)
        }


def _url(path: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"


def _some(names: Sequence[str], most: int = 10) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _overall(view: ExplanationView, found: Explanation) -> list[float]:
    """Return the mean over all explained examples."""
    total = sum(found.explained)
    rows = [(row, count) for row, count in zip(view.importance, found.explained, strict=True) if row is not None]
    return [sum(row[index] * count for row, count in rows) / total for index in range(len(view.labels))]


def _by_class(view: ExplanationView, found: Explanation) -> list[tuple[str, tuple[float, ...]]]:
    return [(name, row) for name, row in zip(found.scores, view.importance, strict=True) if row is not None]


def _bars(view: ExplanationView, found: Explanation) -> Part:
    overall = _overall(view, found)
    order = sorted(range(len(overall)), key=lambda index: -overall[index])[:ROWS_SHOWN]
    classes = _by_class(view, found)
    few = len(classes) <= MOST_SERIES
    series = [name for name, _row in classes] if few else ["all classes"]
    rows = [
        (view.labels[index], [row[index] for _name, row in classes] if few else [overall[index]]) for index in order
    ]
    charts = [] if few else [_chart(name, [name], _sorted(view, row)) for name, row in classes[:CLASSES_SHOWN]]
    remark = ""
    if len(overall) > ROWS_SHOWN:
        remark = f"The {ROWS_SHOWN} that matter most, of {len(overall)}; all are in metrics.json."
    return Part(name=_VIEWS[view.name], remark=remark, overall=_chart("", series, rows), by_class=charts)


def _sorted(view: ExplanationView, row: Sequence[float]) -> list[tuple[str, list[float]]]:
    order = sorted(range(len(row)), key=lambda index: -row[index])[:ROWS_SHOWN]
    return [(view.labels[index], [row[index]]) for index in order]


def _chart(name: str, series: Sequence[str], rows: Sequence[tuple[str, Sequence[float]]]) -> Chart:
    label = f"Mean absolute attribution of each input to the score of {', '.join(series)}"
    wide, narrow = (importance_chart(label, series, rows, width=width) for width in (WIDE, NARROW))
    return Chart(name=name, wide=wide, narrow=narrow)


def _grid(view: ExplanationView, found: Explanation) -> Part:
    overall, classes = _overall(view, found), _by_class(view, found)
    several = len(found.scores) > 1
    values = [value for _name, row in classes for value in row]

    def grid(name: str, cells: Sequence[float], shown: Sequence[float]) -> Chart:
        label = f"Where the model looks: mean absolute attribution{f', {name}' if several else ''}"
        drawn = heat_grid(label, cells, rows=view.rows, least=min(shown), largest=max(shown))
        return Chart(name=name, wide=drawn, narrow=drawn)

    remark = (
        f"The stronger the colour, the more it mattered: from {notation.significant(min(overall), 3)}, without "
        f"colour, to {notation.significant(max(overall), 3)}."
    )
    if several:
        remark += f" By class from {notation.significant(min(values), 3)} to {notation.significant(max(values), 3)}."
    return Part(
        name=_VIEWS[view.name],
        remark=remark,
        overall=grid("all classes", overall, overall),
        by_class=[grid(name, row, values) for name, row in classes[:CLASSES_SHOWN]] if several else [],
    )
