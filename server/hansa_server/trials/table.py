"""From runs to one table: mean and spread over seeds, the worst seed, the worst site, what it cost.

Evolution, as for ``metrics.json``: ``format`` counts up when a meaning changes; keys are added, never renamed.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from pathlib import Path
from statistics import fmean, stdev
from typing import Literal

from hansa_common.settings import Strict
from hansa_server.results import Results, Scores
from hansa_server.trials.runs import Run
from hansa_server.trials.variants import Variant

Kind = Literal["compare", "sweep", "curve"]
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
    accuracy: float | None
    """All sites' test examples together; ``null`` where protection keeps it at the sites or the run failed."""
    site_mean: float | None
    worst_site: str | None
    worst_site_accuracy: float | None
    validation_accuracy: float | None
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
    accuracy: Spread | None
    difference: Spread | None
    """Accuracy minus the first row's, seed by seed: the same split, so it is steadier than the two spreads."""
    site_mean: Spread | None
    validation_accuracy: Spread | None
    worst_seed: int | None
    worst_site: str | None
    """The worst of all sites and seeds."""
    worst_site_accuracy: float | None
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
    seeds: tuple[int, ...]
    partition: str
    data_origin: str
    sites: int
    best: str | None
    """The row with the highest mean validation accuracy; ``null`` where it is not known for every row."""
    rows: tuple[Row, ...]
    environment: dict[str, str]


def tabulate(kind: Kind, variants: Sequence[Variant], runs: Sequence[Run], out: Path) -> Trials:
    """Return the table of all runs.

    Args:
        kind: What was varied.
        variants: In the order of the rows.
        runs: Of all of them.
        out: What the runs' folders are named below.
    """
    seeds = tuple(seed for seed, _ in groupby(run.seed for run in runs))
    by_name = {variant.name: [run for run in runs if run.variant == variant.name] for variant in variants}
    first = [run.results for run in by_name[variants[0].name]]
    rows = tuple(_row(variant, by_name[variant.name], first, out) for variant in variants)
    validated = {row.name: row.validation_accuracy for row in rows}
    known = {name: spread.mean for name, spread in validated.items() if spread is not None}
    simulation = variants[0].plan.simulation
    return Trials(
        kind=kind,
        study=variants[0].plan.name,
        seeds=seeds,
        partition=simulation.partition if simulation else "",
        data_origin=next((run.results.data_origin for run in runs if run.results.data_origin), ""),
        sites=max(len(run.results.sites) for run in runs),
        best=max(known, key=lambda name: known[name]) if len(known) == len(rows) > 1 else None,
        rows=rows,
        environment=runs[0].results.environment,
    )


def _row(variant: Variant, runs: Sequence[Run], first: Sequence[Results], out: Path) -> Row:
    entries = [_run_row(run, out) for run in runs]
    differences = [
        own - others
        for entry, other in zip(entries, first, strict=True)
        if (own := entry.accuracy) is not None and (others := _accuracy(_whole(other))) is not None
    ]
    tested = [entry for entry in entries if entry.accuracy is not None]
    sited = [entry for entry in entries if entry.worst_site_accuracy is not None]
    worst = min(sited, key=lambda entry: entry.worst_site_accuracy or 0.0) if sited else None
    return Row(
        name=variant.name,
        x=variant.x,
        plan_digest=runs[0].results.plan_digest,
        accuracy=Spread.of(entry.accuracy for entry in entries),
        difference=Spread.of(differences),
        site_mean=Spread.of(entry.site_mean for entry in entries),
        validation_accuracy=Spread.of(entry.validation_accuracy for entry in entries),
        worst_seed=min(tested, key=lambda entry: entry.accuracy or 0.0).seed if tested else None,
        worst_site=worst.worst_site if worst else None,
        worst_site_accuracy=worst.worst_site_accuracy if worst else None,
        rounds=_mean(entries, lambda entry: entry.rounds),
        bytes_up=_mean(entries, lambda entry: entry.bytes_up),
        bytes_down=_mean(entries, lambda entry: entry.bytes_down),
        seconds=_mean(entries, lambda entry: entry.seconds),
        runs=tuple(entries),
    )


def _mean(entries: Sequence[RunRow], of: Callable[[RunRow], float]) -> float:
    return fmean(of(entry) for entry in entries)


def _run_row(run: Run, out: Path) -> RunRow:
    results = run.results
    final = results.final
    worst = final.worst_site if final else None
    return RunRow(
        seed=run.seed,
        folder=run.folder.relative_to(out).as_posix(),
        status=results.status,
        reason=results.reason,
        accuracy=_accuracy(_whole(results)),
        site_mean=_accuracy(final.site_mean if final else None),
        worst_site=worst.site if worst else None,
        worst_site_accuracy=worst.accuracy if worst else None,
        validation_accuracy=final.validation.weighted_mean_accuracy if final else None,
        rounds=len(results.rounds),
        bytes_up=results.bytes.up,
        bytes_down=results.bytes.down,
        seconds=results.timing.rounds_seconds,
        notices=tuple(notice.text for notice in results.notices),
    )


def _whole(results: Results) -> Scores | None:
    return results.final.weighted_mean if results.final else None


def _accuracy(scores: Scores | None) -> float | None:
    return None if scores is None else scores.accuracy
