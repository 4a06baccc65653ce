"""From counts to the figures of ``Results``: merged counts for the weighted mean, never an average of averages."""

from collections.abc import Mapping
from dataclasses import asdict
from statistics import fmean

from hansa_common.metrics import ClassificationCounts, scores
from hansa_server.results import BaselineSummary, Scores, Summary, WorstSite

_FIGURES = ("loss", "accuracy", "balanced_accuracy", "precision", "recall", "f1", "roc_auc", "calibration_error")


def scores_of(counts: ClassificationCounts) -> Scores:
    """Return the figures of one set of counts."""
    return Scores(**asdict(scores(counts)))


def merge(counts: Mapping[str, ClassificationCounts]) -> ClassificationCounts:
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
    means = {name: fmean(found) if found else None for name, found in values.items()}
    return Scores(num_examples=round(fmean(s.num_examples for s in sites.values())), **means)


def worst(sites: Mapping[str, Scores]) -> WorstSite:
    """Return the site with the lowest accuracy; of several, the first by name."""
    site = min(sorted(sites), key=lambda name: 2.0 if (value := sites[name].accuracy) is None else value)
    return WorstSite(site=site, **sites[site].model_dump())


def baseline_summary(counts: Mapping[str, ClassificationCounts]) -> BaselineSummary:
    """Return weighted mean, site mean and worst site of one model, or of one model a site."""
    per_site = {site: scores_of(count) for site, count in counts.items()}
    return BaselineSummary(
        weighted_mean=scores_of(merge(counts)), site_mean=mean_over_sites(per_site), worst_site=worst(per_site)
    )


def summary_of_sum(counts: ClassificationCounts) -> Summary:
    """Return accuracy and loss where only the sum over the sites is known."""
    overall = scores_of(counts)
    return Summary(
        weighted_mean_accuracy=overall.accuracy,
        site_mean_accuracy=None,
        worst_site_accuracy=None,
        worst_site=None,
        weighted_mean_loss=overall.loss,
    )


def summary(counts: Mapping[str, ClassificationCounts]) -> Summary:
    """Return accuracy and loss over the sites' validation splits; sites without validation examples do not count."""
    per_site = {site: scores_of(count) for site, count in counts.items() if count.num_examples}
    if not per_site:
        return Summary(
            weighted_mean_accuracy=None,
            site_mean_accuracy=None,
            worst_site_accuracy=None,
            worst_site=None,
            weighted_mean_loss=None,
        )
    overall, lowest = scores_of(merge({site: counts[site] for site in per_site})), worst(per_site)
    return Summary(
        weighted_mean_accuracy=overall.accuracy,
        site_mean_accuracy=mean_over_sites(per_site).accuracy,
        worst_site_accuracy=lowest.accuracy,
        worst_site=lowest.site,
        weighted_mean_loss=overall.loss,
    )
