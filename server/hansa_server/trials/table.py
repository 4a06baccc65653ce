"""From runs to one table: mean and spread over seeds, the worst seed, the worst site, what it cost.

Evolution, as for ``metrics.json``: ``format`` counts up when a meaning changes; keys are added, never renamed.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from statistics import fmean, stdev
from typing import Literal, TypeVar

from hansa_common.metrics import IS_HIGHER_BETTER, MainFigure, VerdictFigure, counts_kind, main_figure, verdict_figure
from hansa_common.plan import StudyPlan
from hansa_common.settings import Strict
from hansa_server.figures import gain, worst
from hansa_server.trials.runs import Run
from hansa_server.trials.variants import Variant

Kind = Literal["compare", "sweep", "curve"]
T = TypeVar("T")
_FEWEST = 2  # seeds with a standard deviation


class Spread(Strict):
    """One figure over seeds."""

    mean: float
    deviation: float | None
    """Standard deviation of the sample (n - 1); ``null`` with one seed."""
    lowest: float
    highest: float

    @classmethod
    def of(cls, values: Iterable[float | None]) -> "Spread | None":
        """Return the spread of the values that are known; ``None`` where none is."""
        known = [value for value in values if value is not None]
        if not known:
            return None
        deviation = stdev(known) if len(known) >= _FEWEST else None
        return cls(mean=fmean(known), deviation=deviation, lowest=min(known), highest=max(known))


class RunRow(Strict):
    """One run."""

    seed: int
    folder: str
    """Below the folder of ``compare.json``; the run's report is in it."""
    status: Literal["completed", "stopped", "failed"]
    reason: str
    value: float | None
    """All sites' test examples together; ``null`` where protection keeps it at the sites or the run failed."""
    site_mean: float | None
    worst_site: str | None
    worst_site_value: float | None
    validation: float | None
    """Of the last model on the sites' validation splits: what a choice may be made by."""
    rounds: int
    bytes_up: int
    bytes_down: int
    seconds: float
    """Of the rounds; starting processes and reading data is not in it."""
    notices: tuple[str, ...]
    """What the run noticed about itself."""


class Row(Strict):
    """One plan over all seeds."""

    name: str
    x: float | None
    """Where it stands on a curve."""
    plan_digest: str
    """With the first of the seeds."""
    value: Spread | None
    gain: Spread | None
    """By how much it is better than the first row, seed by seed: the same split, so it is steadier than the spreads."""
    site_mean: Spread | None
    validation: Spread | None
    worst_seed: int | None
    worst_seed_value: float | None
    worst_site: str | None
    """The worst of all sites and seeds."""
    worst_site_value: float | None
    rounds: float
    """Mean over the seeds, as the three below."""
    bytes_up: float
    bytes_down: float
    seconds: float
    runs: tuple[RunRow, ...]


class Trials(Strict):
    """Everything that ``compare.html`` shows."""

    format: Literal[1] = 1
    kind: Kind
    study: str
    figure: VerdictFigure
    """What the plans are compared by, on test splits: every ``value`` and what is made of it."""
    validation_figure: MainFigure
    """The same on validation splits, where an anomaly's score is not counted."""
    unit: str
    """Of a predicted number; else empty."""
    seeds: tuple[int, ...]
    partition: str
    data_origin: str
    sites: int
    best: str | None
    """The row with the best mean ``validation``; ``null`` where it is not known for every row."""
    rows: tuple[Row, ...]
    environment: dict[str, str]


def figure_of(plan: StudyPlan) -> VerdictFigure:
    """Return what models of a study are compared by on test examples."""
    return verdict_figure(counts_kind(plan.data).zero(histograms=True))


def pick(figure: VerdictFigure, values: Mapping[T, float | None], *, best: bool) -> T | None:
    """Return whose value is the best of those that are known, or the worst; of several the first, of none ``None``."""
    known = {key: value for key, value in values.items() if value is not None}
    if not known:
        return None
    highest = IS_HIGHER_BETTER[figure] == best
    return (max if highest else min)(known, key=lambda key: known[key])


def tabulate(kind: Kind, variants: Sequence[Variant], runs: Sequence[Run], out: Path) -> Trials:
    """Return the table of all runs.

    Args:
        kind: What was varied.
        variants: In the order of the rows.
        runs: Of all of them.
        out: What the runs' folders are named below.
    """
    plan = variants[0].plan
    figure, validation_figure = figure_of(plan), main_figure(counts_kind(plan.data).zero(histograms=True))
    seeds = tuple(seed for seed, _ in groupby(run.seed for run in runs))
    entries = {
        variant.name: [_run_row(run, figure, out) for run in runs if run.variant == variant.name]
        for variant in variants
    }
    digests = {run.variant: run.results.plan_digest for run in reversed(runs)}
    rows = tuple(
        _row(variant, digests[variant.name], entries[variant.name], entries[variants[0].name], figure)
        for variant in variants
    )
    validated = {row.name: row.validation.mean if row.validation else None for row in rows}
    is_chosen = len(rows) > 1 and None not in validated.values()
    return Trials(
        kind=kind,
        study=plan.name,
        figure=figure,
        validation_figure=validation_figure,
        unit=next((run.results.unit for run in runs), ""),
        seeds=seeds,
        partition=plan.simulation.partition if plan.simulation else "",
        data_origin=next((run.results.data_origin for run in runs if run.results.data_origin), ""),
        sites=max(len(run.results.sites) for run in runs),
        best=pick(validation_figure, validated, best=True) if is_chosen else None,
        rows=rows,
        environment=runs[0].results.environment,
    )


def _row(
    variant: Variant, plan_digest: str, entries: Sequence[RunRow], first: Sequence[RunRow], figure: VerdictFigure
) -> Row:
    gains = [
        gain(figure, own.value, other.value)
        for own, other in zip(entries, first, strict=True)
        if own.value is not None and other.value is not None
    ]
    by_seed = {entry.seed: entry for entry in entries}
    worst_seed = pick(figure, {entry.seed: entry.value for entry in entries}, best=False)
    sited = pick(figure, {entry.seed: entry.worst_site_value for entry in entries}, best=False)
    return Row(
        name=variant.name,
        x=variant.x,
        plan_digest=plan_digest,
        value=Spread.of(entry.value for entry in entries),
        gain=Spread.of(gains),
        site_mean=Spread.of(entry.site_mean for entry in entries),
        validation=Spread.of(entry.validation for entry in entries),
        worst_seed=worst_seed,
        worst_seed_value=None if worst_seed is None else by_seed[worst_seed].value,
        worst_site=None if sited is None else by_seed[sited].worst_site,
        worst_site_value=None if sited is None else by_seed[sited].worst_site_value,
        rounds=_mean(entries, lambda entry: entry.rounds),
        bytes_up=_mean(entries, lambda entry: entry.bytes_up),
        bytes_down=_mean(entries, lambda entry: entry.bytes_down),
        seconds=_mean(entries, lambda entry: entry.seconds),
        runs=tuple(entries),
    )


def _mean(entries: Sequence[RunRow], of: Callable[[RunRow], float]) -> float:
    return fmean(of(entry) for entry in entries)


def _run_row(run: Run, figure: VerdictFigure, out: Path) -> RunRow:
    results = run.results
    final = results.final
    tested = {site.site: site.federated for site in results.sites if site.federated is not None} if final else {}
    lowest = worst(tested, figure) if tested else None
    return RunRow(
        seed=run.seed,
        folder=run.folder.relative_to(out).as_posix(),
        status=results.status,
        reason=results.reason,
        value=getattr(final.weighted_mean, figure) if final and final.weighted_mean else None,
        site_mean=getattr(final.site_mean, figure) if final and final.site_mean else None,
        worst_site=lowest.site if lowest else None,
        worst_site_value=getattr(lowest, figure) if lowest else None,
        validation=final.validation.overall_value if final else None,
        rounds=len(results.rounds),
        bytes_up=results.bytes.up,
        bytes_down=results.bytes.down,
        seconds=results.timing.rounds_seconds,
        notices=tuple(notice.text for notice in results.notices),
    )
