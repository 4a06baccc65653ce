import numpy as np
import pytest

from hansa_common.metrics import ClassificationCounts, SurvivalCounts
from hansa_server.figures import mean_over_sites, merge, reliability_of, scores_of, summary, worst


def counts(right: int, wrong: int) -> ClassificationCounts:
    labels = np.zeros(right + wrong, np.int64)
    probabilities = np.array([[0.9, 0.1]] * right + [[0.1, 0.9]] * wrong, np.float32).reshape(-1, 2)
    return ClassificationCounts.of(probabilities, labels, np.ones(right + wrong))


def test_the_weighted_mean_is_of_counts_and_the_site_mean_of_sites() -> None:
    sites = {"big": counts(90, 10), "small": counts(1, 1)}
    per_site = {site: scores_of(count) for site, count in sites.items()}
    assert scores_of(merge(sites)).accuracy == pytest.approx(91 / 102)
    assert mean_over_sites(per_site).accuracy == pytest.approx((0.9 + 0.5) / 2)
    assert worst(per_site).site == "small"


def test_of_equally_bad_sites_the_first_by_name_is_worst() -> None:
    per_site = {site: scores_of(counts(1, 1)) for site in ("b", "a")}
    assert worst(per_site).site == "a"


def test_figures_that_a_site_lacks_do_not_count() -> None:
    per_site = {"a": scores_of(counts(1, 1)), "empty": scores_of(ClassificationCounts.zero(2))}
    assert mean_over_sites(per_site).accuracy == 0.5
    assert worst(per_site).site == "a"


def test_a_summary_without_validation_examples_is_empty() -> None:
    empty = summary({"a": ClassificationCounts.zero(2, histograms=False)})
    assert empty.weighted_mean_accuracy is None
    assert empty.worst_site is None


def test_counts_without_confidences_have_no_reliability_diagram() -> None:
    assert reliability_of(counts(3, 1))
    assert reliability_of(ClassificationCounts.zero(2, histograms=False)) == ()
    assert reliability_of(SurvivalCounts()) == ()


def test_merging_nothing_is_a_bug_of_the_caller() -> None:
    with pytest.raises(RuntimeError):
        merge({})
