"""``metrics.csv``: every figure of a study in long form, one a row, for a spreadsheet or a data frame.

Columns: ``round, site, split, figure, value``. docs/results.md lists the notation.
"""

import csv
import io
from collections.abc import Iterator

from hansa_server.report.protection import has_noised_counts, noise_of
from hansa_server.results import BaselineSummary, Final, Results, RoundResult, Scores, SiteResult, Summary

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
        yield from _site(site, results.classes, last)
    if results.final is not None:
        final = results.final
        yield from _summary(final.validation, last)
        yield from _three("", final, last)
        if final.worst_site_against_local is not None:
            against = final.worst_site_against_local
            yield last, against.site, "test", "worst_site_against_local", against.difference
        yield from _scores("", "coordinator", "", final.coordinator, last)
    noise = noise_of(results)
    if noise is not None and noise.epsilon is not None:
        yield last, "", "", "epsilon", noise.epsilon
    if results.baselines is not None:
        yield from _three("local_only_", results.baselines.local_only, last)
        yield from _three("pooled_", results.baselines.pooled, last)


def _round(entry: RoundResult) -> Iterator[Row]:
    number = entry.round
    yield from _summary(entry.incoming, number - 1)
    yield number, "", "train", "loss", entry.train_loss
    for figure in ("seconds", "bytes_up", "bytes_down"):
        yield number, "", "", figure, getattr(entry, figure)
    for site in entry.sites:
        yield number - 1, site.site, "validation", "accuracy", site.accuracy
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
    for figure in ("weighted_mean_accuracy", "site_mean_accuracy", "worst_site_accuracy", "weighted_mean_loss"):
        yield number, "", "validation", figure, getattr(summary, figure)


def _site(site: SiteResult, classes: tuple[str, ...], last: int) -> Iterator[Row]:
    for split, examples in site.examples.items():
        yield last, site.site, split, "examples", examples
    held = zip(classes, site.class_counts, strict=True) if site.class_counts else ()  # none where they stay at the site
    for name, examples in held:
        yield last, site.site, "", f"examples:{name}", examples
    yield last, site.site, "", "rounds_contributed", site.rounds_contributed
    yield from _scores(site.site, "test", "", site.federated, last)
    yield from _scores(site.site, "test", "personal_", site.personal, last)
    yield from _scores(site.site, "test", "local_only_", site.local_only, last)
    yield from _scores(site.site, "test", "pooled_", site.pooled, last)


def _three(prefix: str, summary: BaselineSummary | Final, last: int) -> Iterator[Row]:
    """Write weighted mean, site mean and worst site."""
    for which in ("weighted_mean", "site_mean", "worst_site"):
        yield from _scores("", "test", f"{prefix}{which}_", getattr(summary, which), last)


def _scores(site: str, split: str, prefix: str, scores: Scores | None, last: int) -> Iterator[Row]:
    if scores is not None:
        for figure in Scores.model_fields:
            yield last, site, split, f"{prefix}{figure}", getattr(scores, figure)


def _defused(name: str) -> str:
    return f"'{name}" if name.startswith(FORMULA_STARTS) else name
