import numpy as np
import pytest
from sklearn import metrics as oracle

from hansa_common.metrics import ClassificationCounts, reliability, roc_curve


def _counts(scores: list[float], labels: list[int]) -> ClassificationCounts:
    column = np.array(scores, np.float32)
    return ClassificationCounts.of(np.stack((1 - column, column), axis=1), np.array(labels), np.zeros(len(labels)))


def test_roc_curve_is_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 2, 300)
    scores = np.round(np.clip(rng.normal(0.4 + 0.2 * labels, 0.2), 0, 1), 2)
    found = roc_curve(_counts(scores.tolist(), labels.tolist()), 1)
    expected = oracle.roc_curve(labels, scores, drop_intermediate=True)
    assert found is not None
    grid = np.linspace(0, 1, 301)
    assert np.interp(grid, *found) == pytest.approx(np.interp(grid, *expected[:2]), abs=1e-12)
    assert oracle.auc(*found) == pytest.approx(oracle.roc_auc_score(labels, scores), abs=1e-12)


def test_a_straight_stretch_has_two_ends_only() -> None:
    found = roc_curve(_counts([0.9, 0.8, 0.7, 0.3, 0.2, 0.1], [1, 1, 1, 0, 0, 0]), 1)
    assert found is not None
    assert [rates.tolist() for rates in found] == [[0.0, 0.0, 1.0], [0.0, 1.0, 1.0]]


def test_no_curve_for_a_class_without_positives_or_negatives() -> None:
    counts = _counts([0.1, 0.9], [1, 1])
    assert roc_curve(counts, 1) is None
    assert roc_curve(counts, 0) is None


def test_reliability_has_the_occupied_bins() -> None:
    diagram = reliability(_counts([0.9, 0.9, 0.9, 0.9, 0.55, 0.55], [1, 1, 1, 0, 1, 0]))
    assert diagram.confidence == pytest.approx([0.55, 0.9], abs=1e-6)
    assert diagram.accuracy.tolist() == [0.5, 0.75]
    assert diagram.examples.tolist() == [2, 4]
    assert len(reliability(ClassificationCounts.zero(2)).examples) == 0


def test_curves_need_histograms() -> None:
    counts = ClassificationCounts.zero(2, histograms=False)
    with pytest.raises(RuntimeError, match="histograms=True"):
        roc_curve(counts, 0)
    with pytest.raises(RuntimeError, match="histograms=True"):
        reliability(counts)
