"""The page and the terminal's table of several runs beside each other."""

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from hansa_server.figures import gain
from hansa_server.report import notation
from hansa_server.report.charts import Point, Series, SpreadRow, line_chart, spread_chart
from hansa_server.report.templates import make_environment
from hansa_server.trials.table import Row, Spread, Trials
from hansa_server.trials.writing import Writer, higher_is_better

WIDE, NARROW = 900.0, 360.0  # px

_ENVIRONMENT = make_environment()


def spread(found: Spread | None, writer: Writer) -> str:
    """Write mean and deviation over seeds: ``83.1% ± 0.4``; one seed has no deviation."""
    return notation.MISSING if found is None else writer.value(found.mean) + writer.deviation(found.deviation)


def gained(found: Spread | None, writer: Writer) -> str:
    """Write what is better seed by seed, in points of a share: ``+0.4 ± 0.2``."""
    return notation.MISSING if found is None else writer.gain(found.mean) + writer.deviation(found.deviation)


def writers(trials: Trials) -> tuple[Writer, Writer]:
    """Return what writes the figure on test splits, and that on validation splits."""
    return (
        Writer(figure=trials.figure, unit=trials.unit),
        Writer(figure=trials.validation_figure, unit=trials.unit),
    )


_ENVIRONMENT.filters |= {
    "plural": notation.plural,
    "size": notation.size,
    "duration": notation.duration,
    "spread": spread,
    "gained": gained,
}


def render(trials: Trials) -> str:
    """Return ``compare.html``: one page without scripts or external resources."""
    tested, validated = writers(trials)
    return _ENVIRONMENT.get_template("trials.html.jinja").render(
        trials=trials,
        tested=tested,
        validated=validated,
        is_error=not higher_is_better(trials.figure),
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
    tested, validated = writers(trials)
    best = next(row for row in trials.rows if row.name == trials.best)
    test = (
        f"{_with_unit(tested, spread(best.value, tested))} on the test splits"
        if best.value
        else "the test figure is kept at the sites"
    )
    return (
        f"{'Highest' if higher_is_better(validated.figure) else 'Lowest'} {validated.name} on the validation splits, "
        f"which a choice may be made by: {best.name} ({_with_unit(validated, spread(best.validation, validated))}); "
        f"{tested.name} {test}."
    )


def _with_unit(writer: Writer, written: str) -> str:
    return f"{written} {writer.unit}" if writer.figure == "rmse" and writer.unit else written


def _growth(trials: Trials) -> list[str]:
    """Say what the last step of the curve brought: whether more data would still help."""
    tested, _ = writers(trials)
    known = [row for row in trials.rows if row.value is not None and row.x is not None]
    if len(known) < 2:  # noqa: PLR2004 - a step has two ends
        return []
    before, last = known[-2:]
    steps = [
        gain(trials.figure, own.value, other.value)
        for own, other in zip(last.runs, before.runs, strict=True)
        if own.value is not None and other.value is not None
    ]
    step = Spread.of(steps)
    if step is None:
        return []
    unit = f" {tested.gain_unit}" if tested.gain_unit else ""
    changed = f"{'worse' if step.mean < 0.0 else 'better'} by {tested.gain(abs(step.mean)).lstrip('+')}"
    change = f"{changed}{tested.deviation(step.deviation)}{unit}"
    return [f"From {before.name} to {last.name}: {tested.name} {change}, seed by seed."]


def _distinct(row: Row) -> list[str]:
    return list(dict.fromkeys(text for run in row.runs for text in run.notices))


def _chart(trials: Trials, width: float) -> str:
    writer, _ = writers(trials)
    if trials.kind == "curve":
        return _curve(trials.rows, writer, width)
    rows = [
        SpreadRow(
            name=row.name,
            values=tuple(run.value for run in row.runs if run.value is not None),
            notes=tuple(f"seed {run.seed}" for run in row.runs if run.value is not None),
        )
        for row in trials.rows
    ]
    label = f"{writer.heading} on all sites' test splits: each seed, and the mean, for each plan"
    return spread_chart(label, rows, width=width, write=writer.value, write_tick=writer.tick)


def _curve(rows: Sequence[Row], writer: Writer, width: float) -> str:
    known = [(round(row.x), row.value) for row in rows if row.x is not None and row.value is not None]
    lines = [Series(name="Mean", points=tuple(Point(x=x, y=each.mean) for x, each in known), style="first")]
    if any(each.deviation is not None for _, each in known):
        lines += [
            Series(name="Lowest seed", points=tuple(Point(x=x, y=each.lowest) for x, each in known), style="third"),
            Series(name="Highest seed", points=tuple(Point(x=x, y=each.highest) for x, each in known), style="second"),
        ]
    return line_chart(
        f"{writer.heading} on all sites' test splits over the share of the training data",
        lines,
        width=width,
        x_label="% of each site's training data",
        write=writer.value,
        write_tick=writer.tick,
        highest=1.0 if higher_is_better(writer.figure) else None,
    )


def terminal_tables(trials: Trials) -> tuple[Table, Table]:
    """Return what came out and what it cost, as two tables that fit a terminal of 80 columns."""
    tested, _ = writers(trials)
    name = {"reconstruction_error": "rec. error"}.get(tested.figure, tested.name)
    figures = _table("", name, "better by", "worst seed", "worst site")
    costs = _table("", "rounds", "up", "down", "time of the rounds", "")
    for row in trials.rows:
        failed = sum(run.status != "completed" for run in row.runs)
        plan = Text(row.name, style="bold" if row.name == trials.best else "")
        figures.add_row(
            plan,
            spread(row.value, tested),
            "" if row is trials.rows[0] else gained(row.gain, tested),
            tested.value(row.worst_seed_value) + (f" ({row.worst_seed})" if row.worst_seed is not None else ""),
            Text(tested.value(row.worst_site_value) + (f" {row.worst_site}" if row.worst_site else "")),
        )
        costs.add_row(
            plan,
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
