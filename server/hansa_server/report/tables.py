"""``metrics.csv``: every figure of a study in long form, one a row, for a spreadsheet or a data frame.

Columns: ``round, site, split, figure, value``. docs/results.md lists the notation.
"""

import csv
import io
from collections.abc import Iterator

from hansa_server.report.columns import FIGURES
from hansa_server.report.protection import has_noised_counts, noise_of
from hansa_server.results import (
    BaselineSummary,
    CrossSite,
    Final,
    Results,
    RoundResult,
    Scores,
    SiteResult,
    Summary,
    Tested,
)

COLUMNS = ("round", "site", "split", "figure", "value")
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
"""A spreadsheet takes a cell that begins so for a formula (OWASP, "CSV Injection")."""

Value = int | float | None
Row = tuple[int, str, str, str, Value]


def metrics_csv(results: Results) -> str:
    """Write all figures of a study as CSV with a header; a figure that was not measured has an empty value.

    ``round`` is the number of rounds that the model had been trained for. A site's name that a spreadsheet would run as
    a formula gets a single quote in front.
    """
    file = io.StringIO(newline="")
    writer = csv.writer(file)  # RFC 4180: lines end in CRLF; with LF alone a carriage return in a name is not quoted
    writer.writerow(COLUMNS)
    kept = has_noised_counts(results)
    for round_number, site, split, figure, value in _rows(results):
        if kept and split != "coordinator" and figure.endswith("loss"):
            continue  # losses never leave beside noised counts: a 0 here would be a figure that nobody measured
        writer.writerow((round_number, _defused(site), split, figure, "" if value is None else repr(value)))
    return file.getvalue()


def _rows(results: Results) -> Iterator[Row]:
    for entry in results.rounds:
        yield from _round(entry)
    last = results.rounds[-1].round if results.rounds else 0
    for site in results.sites:
        yield from _site(site, results, last)
    if results.final is not None:
        final = results.final
        yield from _summary(final.validation, last)
        yield from _three(results, "", final, last)
        if final.ensemble is not None:
            yield from _three(results, "ensemble_", final.ensemble, last)
        if final.worst_site_against_local is not None:
            against = final.worst_site_against_local
            yield last, against.site, "test", "worst_site_against_local", against.difference
        yield from _scores(results, (last, "", "coordinator"), "", final.coordinator)
        if final.left_out is not None:
            yield from _scores(results, (last, final.left_out.site, "left_out"), "", final.left_out)
        yield from _decisions(final, last)
        for bin_of in final.reliability:
            yield last, "", "test", f"reliability:{bin_of.confidence!r}", bin_of.accuracy
    noise = noise_of(results)
    if noise is not None and noise.epsilon is not None:
        yield last, "", "", "epsilon", noise.epsilon
    if results.baselines is not None:
        yield from _three(results, "local_only_", results.baselines.local_only, last)
        yield from _three(results, "pooled_", results.baselines.pooled, last)
        yield from _cross_site(results.baselines.cross_site, last)


def _round(entry: RoundResult) -> Iterator[Row]:
    number = entry.round
    yield from _summary(entry.incoming, number - 1)
    yield number, "", "train", "loss", entry.train_loss
    for figure in ("seconds", "bytes_up", "bytes_down"):
        yield number, "", "", figure, getattr(entry, figure)
    for site in entry.sites:
        main = entry.incoming.figure
        yield number - 1, site.site, "validation", main, site.accuracy if main == "accuracy" else site.value
        yield number - 1, site.site, "validation", "loss", site.loss
        yield number, site.site, "train", "loss", site.train_loss
        yield number, site.site, "train", "num_examples", site.num_examples
        yield number, site.site, "", "seconds", site.seconds
        yield number, site.site, "", "train_seconds", site.train_seconds
    for name in entry.missing:
        yield number, name, "", "missing", 1
    if entry.void_attempts:
        yield number, "", "", "void_attempts", len(entry.void_attempts)


def _summary(summary: Summary, number: int) -> Iterator[Row]:
    main = ("weighted_mean_accuracy", "site_mean_accuracy", "worst_site_accuracy")
    if summary.figure != "accuracy":
        main = ("weighted_mean", "site_mean", "worst")
    for figure in (*main, "weighted_mean_loss"):
        yield number, "", "validation", figure, getattr(summary, figure)


def _site(site: SiteResult, results: Results, last: int) -> Iterator[Row]:
    for split, examples in site.examples.items():
        yield last, site.site, split, "examples", examples
    held = (
        zip(results.classes, site.class_counts, strict=True) if site.class_counts else ()
    )  # none where they stay at the site
    for name, examples in held:
        yield last, site.site, "", f"examples:{name}", examples
    yield last, site.site, "", "rounds_contributed", site.rounds_contributed
    yield from _scores(results, (last, site.site, "test"), "", site.federated)
    yield from _scores(results, (last, site.site, "test"), "personal_", site.personal)
    yield from _scores(results, (last, site.site, "test"), "ensemble_", site.ensemble)
    yield from _scores(results, (last, site.site, "test"), "local_only_", site.local_only)
    yield from _scores(results, (last, site.site, "test"), "pooled_", site.pooled)


def _three(results: Results, prefix: str, summary: BaselineSummary | Tested, last: int) -> Iterator[Row]:
    """Write weighted mean, site mean and worst site."""
    for which in ("weighted_mean", "site_mean", "worst_site"):
        yield from _scores(results, (last, "", "test"), f"{prefix}{which}_", getattr(summary, which))


def _scores(results: Results, place: tuple[int, str, str], prefix: str, scores: Scores | None) -> Iterator[Row]:
    """Write the figures that there are for what was learned, and the ends of their intervals."""
    if scores is not None:
        for figure in ("num_examples", *(column.figure for column in FIGURES[results.target])):
            yield *place, f"{prefix}{figure}", getattr(scores, figure)
            if figure in scores.intervals:
                low, high = scores.intervals[figure]
                yield *place, f"{prefix}{figure}_low", low
                yield *place, f"{prefix}{figure}_high", high


def _cross_site(matrix: CrossSite | None, last: int) -> Iterator[Row]:
    """Write what each site's own model reaches at every site; the federation's is in the sites' own rows."""
    if matrix is None:
        return
    for model, values in zip(matrix.sites, matrix.local_only, strict=True):
        for site, value in zip(matrix.sites, values, strict=True):
            yield last, site, "test", f"local_only_{matrix.figure}_of:{model}", value


def _decisions(final: Final, last: int) -> Iterator[Row]:
    """Write the chosen threshold, what it costs, and the gaps between groups."""
    if final.decisions is None:
        return
    yield last, "", "test", "threshold", final.decisions.chosen.threshold
    yield last, "", "test", "threshold_cost", final.decisions.chosen.cost
    for found in final.decisions.fairness:
        yield last, "", "test", f"demographic_parity_gap:{found.column}", found.demographic_parity_gap
        yield last, "", "test", f"equalised_odds_gap:{found.column}", found.equalised_odds_gap


def _defused(name: str) -> str:
    return f"'{name}" if name.startswith(FORMULA_STARTS) else name
