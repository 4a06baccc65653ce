"""From counts to the figures of ``Results``: merged counts for the weighted mean, never an average of averages."""

import math
from collections.abc import Mapping
from dataclasses import asdict
from statistics import fmean
from typing import Any, Final

from hansa_common.metrics import (
    IS_HIGHER_BETTER,
    ClassificationCounts,
    Counts,
    MainFigure,
    VerdictFigure,
    main_figure,
    reliability,
    scores,
    verdict_figure,
)
from hansa_server.results import BaselineSummary, ReliabilityBin, Scores, Summary, WorstAgainstLocal, WorstSite

_FIGURES = tuple(name for name in Scores.model_fields if name not in ("num_examples", "events", "intervals"))


NAMES: Final[Mapping[VerdictFigure, str]] = {
    "accuracy": "accuracy",
    "rmse": "RMSE",
    "c_index": "C-index",
    "reconstruction_error": "reconstruction error",
    "roc_auc": "ROC AUC",
}
"""Figures that models are compared by, for people."""


def write(figure: VerdictFigure, value: float) -> str:
    """Write a figure that models are compared by, for people."""
    match figure:
        case "accuracy":
            return f"{value:.1%}"
        case "c_index" | "roc_auc":
            return f"{value:.3f}"
    return f"{value:#.4g}".removesuffix(".")


def scores_of(counts: Counts) -> Scores:
    """Return the figures of one set of counts."""
    return Scores(**asdict(scores(counts)))


def reliability_of(counts: Counts) -> tuple[ReliabilityBin, ...]:
    """Return the reliability diagram of a classifier; empty for other models, and where counts are noised."""
    if not isinstance(counts, ClassificationCounts) or not counts.has_histograms:
        return ()
    found = reliability(counts)
    bins = zip(found.confidence.tolist(), found.accuracy.tolist(), found.examples.tolist(), strict=True)
    return tuple(
        ReliabilityBin(confidence=confidence, accuracy=accuracy, num_examples=examples)
        for confidence, accuracy, examples in bins
    )


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


def worst(sites: Mapping[str, Scores], figure: VerdictFigure = "accuracy") -> WorstSite:
    """Return the site with the worst figure; of several, the first by name; one that has none comes last."""
    sign = 1.0 if IS_HIGHER_BETTER[figure] else -1.0

    def rank(name: str) -> float:
        value: float | None = getattr(sites[name], figure)
        return math.inf if value is None else sign * value

    site = min(sorted(sites), key=rank)
    return WorstSite(site=site, **sites[site].model_dump())


def main_figure_of(counts: Mapping[str, Counts]) -> MainFigure:
    """Return what models are compared by; accuracy where there are no counts."""
    return main_figure(next(iter(counts.values()))) if counts else "accuracy"


def gain(figure: VerdictFigure, federated: float, local_only: float) -> float:
    """Return by how much the first figure is better than the second."""
    return federated - local_only if IS_HIGHER_BETTER[figure] else local_only - federated


def against_local(
    federated: Mapping[str, Scores], local_only: Mapping[str, Scores], figure: VerdictFigure
) -> WorstAgainstLocal | None:
    """Compare the worst site's federated model with its own one; ``None`` where one of them has no figure."""
    lowest = worst(federated, figure)
    theirs = local_only.get(lowest.site)
    common, own = getattr(lowest, figure), getattr(theirs, figure) if theirs is not None else None
    if common is None or own is None:
        return None
    names = ("federated_accuracy", "local_only_accuracy") if figure == "accuracy" else ("federated", "local_only")
    values = dict(zip(names, (common, own), strict=True))
    return WorstAgainstLocal(site=lowest.site, figure=figure, difference=gain(figure, common, own), **values)


def below_local(own: Mapping[str, Scores], local_only: Mapping[str, Scores], figure: VerdictFigure) -> tuple[str, ...]:
    """Return the sites whose own model is worse than one that was trained there alone."""
    found = []
    for site in sorted(set(own) & set(local_only)):
        mine, alone = getattr(own[site], figure), getattr(local_only[site], figure)
        if mine is not None and alone is not None and gain(figure, mine, alone) < 0.0:
            found.append(site)
    return tuple(found)


def verdict_figure_of(counts: Mapping[str, Counts]) -> VerdictFigure:
    """Return what a site's models are compared by; accuracy where there are no counts."""
    return verdict_figure(next(iter(counts.values()))) if counts else "accuracy"


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
