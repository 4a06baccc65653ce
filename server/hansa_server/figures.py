"""From counts to the figures of ``Results``: merged counts for the weighted mean, never an average of averages."""

import math
from collections.abc import Mapping
from dataclasses import asdict
from statistics import fmean
from typing import Any, Final

from hansa_common.metrics import IS_HIGHER_BETTER, Counts, MainFigure, main_figure, scores
from hansa_server.results import BaselineSummary, Scores, Summary, WorstSite

_FIGURES = tuple(name for name in Scores.model_fields if name not in ("num_examples", "events", "intervals"))


NAMES: Final[Mapping[MainFigure, str]] = {
    "accuracy": "accuracy",
    "rmse": "RMSE",
    "c_index": "C-index",
    "reconstruction_error": "reconstruction error",
}
"""Main figures for people."""


def write(figure: MainFigure, value: float) -> str:
    """Write a main figure for people."""
    match figure:
        case "accuracy":
            return f"{value:.1%}"
        case "c_index":
            return f"{value:.3f}"
    return f"{value:.4g}"


def scores_of(counts: Counts) -> Scores:
    """Return the figures of one set of counts."""
    return Scores(**asdict(scores(counts)))


def merge(counts: Mapping[str, Counts]) -> Counts:
    """Add up the counts of all sites; at least one.

    Raises:
        RuntimeError: There is none.
    """
    ordered = [counts[site] for site in sorted(counts)]
    if not ordered:
        raise RuntimeError("There are no counts to merge.")
    total = ordered[0]
    for other in ordered[1:]:
        total += other
    return total


def mean_over_sites(sites: Mapping[str, Scores]) -> Scores:
    """Return the plain mean of each figure over the sites that have it."""
    values = {name: [value for s in sites.values() if (value := getattr(s, name)) is not None] for name in _FIGURES}
    means: dict[str, Any] = {name: fmean(found) if found else None for name, found in values.items()}
    return Scores(num_examples=round(fmean(s.num_examples for s in sites.values())), **means)


def worst(sites: Mapping[str, Scores], figure: MainFigure = "accuracy") -> WorstSite:
    """Return the site with the worst main figure; of several, the first by name; one that has none comes last."""
    sign = 1.0 if IS_HIGHER_BETTER[figure] else -1.0

    def rank(name: str) -> float:
        value: float | None = getattr(sites[name], figure)
        return math.inf if value is None else sign * value

    site = min(sorted(sites), key=rank)
    return WorstSite(site=site, **sites[site].model_dump())


def main_figure_of(counts: Mapping[str, Counts]) -> MainFigure:
    """Return what models are compared by; accuracy where there are no counts."""
    return main_figure(next(iter(counts.values()))) if counts else "accuracy"


def baseline_summary(counts: Mapping[str, Counts]) -> BaselineSummary:
    """Return weighted mean, site mean and worst site of one model, or of one model a site."""
    per_site = {site: scores_of(count) for site, count in counts.items()}
    return BaselineSummary(
        weighted_mean=scores_of(merge(counts)),
        site_mean=mean_over_sites(per_site),
        worst_site=worst(per_site, main_figure_of(counts)),
    )


def no_summary(figure: MainFigure = "accuracy") -> Summary:
    """Return the summary of nothing."""
    return Summary(
        figure=figure,
        weighted_mean_accuracy=None,
        site_mean_accuracy=None,
        worst_site_accuracy=None,
        worst_site=None,
        weighted_mean_loss=None,
    )


def summary_of_sum(counts: Counts) -> Summary:
    """Return main figure and loss where only the sum over the sites is known."""
    overall, figure = scores_of(counts), main_figure(counts)
    value = getattr(overall, figure)
    return no_summary(figure).model_copy(
        update={
            "weighted_mean_accuracy" if figure == "accuracy" else "weighted_mean": value,
            "weighted_mean_loss": overall.loss,
        }
    )


def summary(counts: Mapping[str, Counts]) -> Summary:
    """Return main figure and loss over the sites' validation splits; sites without validation examples do not count."""
    per_site = {site: scores_of(count) for site, count in counts.items() if count.num_examples}
    figure = main_figure_of(counts)
    if not per_site:
        return no_summary(figure)
    whole = summary_of_sum(merge({site: counts[site] for site in per_site}))
    lowest, mean = worst(per_site, figure), mean_over_sites(per_site)
    names = ("site_mean_accuracy", "worst_site_accuracy") if figure == "accuracy" else ("site_mean", "worst")
    values = dict(zip(names, (getattr(mean, figure), getattr(lowest, figure)), strict=True))
    return whole.model_copy(update={"worst_site": lowest.site} | values)
