"""The page and the terminal's table of several runs beside each other."""

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from hansa_server.report import notation
from hansa_server.report.charts import Point, Series, SpreadRow, line_chart, spread_chart
from hansa_server.report.templates import make_environment
from hansa_server.trials.table import Row, Spread, Trials

WIDE, NARROW = 900.0, 360.0  # px

_ENVIRONMENT = make_environment()


def spread(found: Spread | None) -> str:
    """Write mean and deviation over seeds: ``83.1% ± 0.4``; one seed has no deviation."""
    if found is None:
        return notation.MISSING
    return notation.percent(found.mean) + (f" ± {100 * found.deviation:.1f}" if found.deviation is not None else "")


def difference(found: Spread | None) -> str:
    """Write a paired difference in points: ``+0.4 ± 0.2``."""
    if found is None:
        return notation.MISSING
    return notation.points(found.mean) + (f" ± {100 * found.deviation:.1f}" if found.deviation is not None else "")


_ENVIRONMENT.filters |= {
    "percent": notation.percent,
    "plural": notation.plural,
    "size": notation.size,
    "duration": notation.duration,
    "spread": spread,
    "difference": difference,
}


def render(trials: Trials) -> str:
    """Return ``compare.html``: one page without scripts or external resources."""
    return _ENVIRONMENT.get_template("trials.html.jinja").render(
        trials=trials,
        title={"compare": "Plans compared", "sweep": "Settings swept", "curve": "Learning curve"}[trials.kind],
        sentences=sentences(trials),
        charts=[chart for width in (WIDE, NARROW) if (chart := _chart(trials, width))],
        repeated=len(trials.seeds) > 1,
        failed=[(row, run) for row in trials.rows for run in row.runs if run.status != "completed"],
        noticed=[(row.name, text) for row in trials.rows for text in _distinct(row)],
    )


def sentences(trials: Trials) -> list[str]:
    """Say in plain words what came out, and what it does not say."""
    found = [_leader(trials)] if trials.best is not None else []
    if trials.kind == "curve":
        found = _growth(trials)
    if len(trials.seeds) == 1:
        found.append("One seed says nothing about how much another would change; --seeds 42,43,44 runs three.")
    return found


def _leader(trials: Trials) -> str:
    best = next(row for row in trials.rows if row.name == trials.best)
    tested = f"{spread(best.accuracy)} on the test splits" if best.accuracy else "the test figure is kept at the sites"
    return (
        f"Highest on the validation splits, which a choice may be made by: {best.name} "
        f"({spread(best.validation_accuracy)}); {tested}."
    )


def _growth(trials: Trials) -> list[str]:
    """Say what the last step of the curve brought: whether more data would still help."""
    known = [row for row in trials.rows if row.accuracy is not None and row.x is not None]
    if len(known) < 2:  # noqa: PLR2004 - a step has two ends
        return []
    before, last = known[-2:]
    steps = [
        own.accuracy - other.accuracy
        for own, other in zip(last.runs, before.runs, strict=True)
        if own.accuracy is not None and other.accuracy is not None
    ]
    step = Spread.of(steps)
    return [f"From {before.name} to {last.name}: {difference(step)} points, seed by seed."]


def _distinct(row: Row) -> list[str]:
    return list(dict.fromkeys(text for run in row.runs for text in run.notices))


def _chart(trials: Trials, width: float) -> str:
    if trials.kind == "curve":
        return _curve(trials.rows, width)
    rows = [
        SpreadRow(
            name=row.name,
            values=tuple(run.accuracy for run in row.runs if run.accuracy is not None),
            notes=tuple(f"seed {run.seed}" for run in row.runs if run.accuracy is not None),
        )
        for row in trials.rows
    ]
    label = "Accuracy on all sites' test splits: each seed, and the mean, for each plan"
    return spread_chart(label, rows, width=width, write=notation.percent, write_tick=lambda share: f"{100 * share:g}%")


def _curve(rows: Sequence[Row], width: float) -> str:
    known = [(round(row.x), row.accuracy) for row in rows if row.x is not None and row.accuracy is not None]
    lines = [Series(name="Mean", points=tuple(Point(x=x, y=each.mean) for x, each in known), style="first")]
    if any(each.deviation is not None for _, each in known):
        lines += [
            Series(name="Lowest seed", points=tuple(Point(x=x, y=each.lowest) for x, each in known), style="third"),
            Series(name="Highest seed", points=tuple(Point(x=x, y=each.highest) for x, each in known), style="second"),
        ]
    return line_chart(
        "Accuracy on all sites' test splits over the share of the training data",
        lines,
        width=width,
        x_label="% of each site's training data",
        write=notation.percent,
        write_tick=lambda share: f"{100 * share:g}%",
        highest=1.0,
    )


def terminal_tables(trials: Trials) -> tuple[Table, Table]:
    """Return what came out and what it cost, as two tables that fit a terminal of 80 columns."""
    figures = _table("", "accuracy", "to the first", "worst seed", "site mean", "worst site")
    costs = _table("", "rounds", "up", "down", "time of the rounds", "")
    for row in trials.rows:
        failed = sum(run.status != "completed" for run in row.runs)
        lowest = row.accuracy.lowest if row.accuracy else None
        name = Text(row.name, style="bold" if row.name == trials.best else "")
        figures.add_row(
            name,
            spread(row.accuracy),
            "" if row is trials.rows[0] else difference(row.difference),
            notation.percent(lowest) + (f" ({row.worst_seed})" if row.worst_seed is not None else ""),
            spread(row.site_mean),
            Text(notation.percent(row.worst_site_accuracy) + (f" {row.worst_site}" if row.worst_site else "")),
        )
        costs.add_row(
            name,
            f"{row.rounds:g}",
            notation.size(row.bytes_up),
            notation.size(row.bytes_down),
            notation.duration(row.seconds),
            f"{failed} of {len(row.runs)} runs did not end" if failed else "",
        )
    return figures, costs


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left", no_wrap=bool(index), overflow="fold")
    return table
