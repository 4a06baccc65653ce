import dataclasses

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as oracle

from hansa_common.metrics import (
    ClassificationCounts,
    accuracy,
    average_precision,
    balanced_accuracy,
    calibration_error,
    f1,
    loss,
    precision,
    recall,
    roc_auc,
    scores,
)
from hansa_server.results import Scores

Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]


def _predictions(
    seed: int, examples: int, classes: int, *, scale: float = 1.0, skill: float = 1.0
) -> tuple[Floats, Labels]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, examples)
    logits = rng.normal(0, scale, (examples, classes)).astype(np.float32)
    logits[np.arange(examples), labels] += np.float32(skill * scale)
    exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponents / exponents.sum(axis=1, keepdims=True), labels


def _of(probabilities: Floats, labels: Labels) -> ClassificationCounts:
    return ClassificationCounts.of(probabilities, labels, np.zeros(len(labels)))


def _federated(probabilities: Floats, labels: Labels, sites: int = 7) -> ClassificationCounts:
    """Label-skewed sites: most of them lack most classes, so that a mean of site figures would be far off."""
    merged = ClassificationCounts.zero(probabilities.shape[1])
    for part in np.array_split(np.argsort(labels, kind="stable"), sites):
        merged += _of(probabilities[part], labels[part])
    return merged


def _macro_auc(probabilities: Floats, labels: Labels) -> float:
    classes = [1] if probabilities.shape[1] == 2 else [k for k in range(probabilities.shape[1]) if (labels == k).any()]
    return float(np.mean([oracle.roc_auc_score(labels == k, probabilities[:, k]) for k in classes]))


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    classes=st.integers(2, 8),
    examples=st.integers(1, 60),
    present=st.integers(1, 8),
)
def test_macro_figures_are_those_of_scikit_learn(seed: int, classes: int, examples: int, present: int) -> None:
    rng = np.random.default_rng(seed)
    probabilities, labels = _predictions(seed, examples, classes)
    labels %= present  # some classes do not occur among the labels, others not among the predictions
    probabilities[:, rng.integers(classes)] = 0
    counts = _of(probabilities, labels)
    predicted = probabilities.argmax(axis=1)
    assert accuracy(counts) == pytest.approx(oracle.accuracy_score(labels, predicted))
    assert precision(counts) == pytest.approx(
        oracle.precision_score(labels, predicted, average="macro", zero_division=0)
    )
    assert recall(counts) == pytest.approx(oracle.recall_score(labels, predicted, average="macro", zero_division=0))
    assert f1(counts) == pytest.approx(oracle.f1_score(labels, predicted, average="macro", zero_division=0))
    recalls = [(predicted[labels == k] == k).mean() for k in np.unique(labels)]
    assert balanced_accuracy(counts) == pytest.approx(np.mean(recalls))


def test_balanced_accuracy_is_that_of_scikit_learn() -> None:
    probabilities, labels = _predictions(3, 400, 5)
    expected = oracle.balanced_accuracy_score(labels, probabilities.argmax(axis=1))
    assert balanced_accuracy(_of(probabilities, labels)) == pytest.approx(expected)


def test_loss_is_the_log_loss() -> None:
    scores_of_float32, labels = _predictions(3, 400, 5)
    probabilities = scores_of_float32 / scores_of_float32.sum(axis=1, keepdims=True, dtype=np.float64)
    losses = -np.log(probabilities[np.arange(400), labels])
    counts = ClassificationCounts.of(probabilities, labels, losses)
    assert loss(counts) == pytest.approx(oracle.log_loss(labels, probabilities), abs=1e-6)


@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize("scale", [0.1, 0.5, 1.0, 5.0, 20.0])
@pytest.mark.parametrize("skill", [0.0, 1.0, 3.0])
def test_federated_roc_auc_is_the_pooled_one(classes: int, scale: float, skill: float) -> None:
    probabilities, labels = _predictions(11, 2_000, classes, scale=scale, skill=skill)
    assert roc_auc(_federated(probabilities, labels)) == pytest.approx(_macro_auc(probabilities, labels), abs=1e-4)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("scale", [0.5, 5.0, 20.0])
@pytest.mark.parametrize("skill", [0.0, 2.0])
def test_federated_average_precision_is_the_pooled_one(classes: int, scale: float, skill: float) -> None:
    probabilities, labels = _predictions(13, 2_000, classes, scale=scale, skill=skill)
    curves = [1] if classes == 2 else range(classes)
    expected = np.mean([oracle.average_precision_score(labels == k, probabilities[:, k]) for k in curves])
    assert average_precision(_federated(probabilities, labels)) == pytest.approx(expected, abs=5e-4)


def test_rare_positives_are_counted_as_exactly() -> None:
    rng = np.random.default_rng(14)
    labels = (rng.random(6_000) < 0.01).astype(np.int64)
    scores = 1 / (1 + np.exp(5.0 - 2.0 * labels - rng.normal(0, 1, 6_000)))
    found = _federated(np.stack((1 - scores, scores), axis=1).astype(np.float32), labels)
    assert average_precision(found) == pytest.approx(oracle.average_precision_score(labels, scores), abs=5e-4)
    assert roc_auc(found) == pytest.approx(oracle.roc_auc_score(labels, scores), abs=1e-4)


@pytest.mark.parametrize("scale", [1.0, 20.0])
def test_federated_roc_auc_is_what_scikit_learn_calls_macro_one_versus_rest(scale: float) -> None:
    probabilities, labels = _predictions(12, 3_000, 10, scale=scale)
    expected = oracle.roc_auc_score(labels, probabilities, multi_class="ovr", average="macro")
    assert roc_auc(_federated(probabilities, labels)) == pytest.approx(expected, abs=1e-4)


def test_saturated_scores_stay_apart() -> None:
    scores_of_class_1 = np.array(
        [1e-40, 1e-30, 1e-20, 1e-10, 1e-5, 0.5, 1 - 1e-5, 1 - 1e-6, 1 - 2.0**-24, 1], np.float32
    )
    labels = np.array([0, 1, 0, 1, 0, 1, 0, 1, 0, 1])
    probabilities = np.stack((1 - scores_of_class_1, scores_of_class_1), axis=1)
    assert roc_auc(_of(probabilities, labels)) == pytest.approx(oracle.roc_auc_score(labels, scores_of_class_1))


def test_ties_count_half() -> None:
    probabilities = np.full((10, 2), 0.5, np.float32)
    assert roc_auc(_of(probabilities, np.arange(10) % 2)) == 0.5


def test_a_class_without_positives_or_negatives_has_no_curve() -> None:
    probabilities, labels = _predictions(4, 200, 4)
    labels %= 3
    assert roc_auc(_of(probabilities, labels)) == pytest.approx(_macro_auc(probabilities, labels), abs=1e-4)
    assert roc_auc(_of(probabilities, np.zeros(200, np.int64))) is None


def _expected_calibration_error(probabilities: Floats, labels: Labels) -> float:
    """Guo et al., equation 3, bin by bin as written there."""
    confidences, correct = probabilities.max(axis=1).astype(np.float64), probabilities.argmax(axis=1) == labels
    error = 0.0
    for m in range(15):
        inside = (confidences > m / 15) & (confidences <= (m + 1) / 15)
        if inside.any():
            error += inside.mean() * abs(correct[inside].mean() - confidences[inside].mean())
    return error


@pytest.mark.parametrize(("scale", "skill"), [(0.5, 0.0), (1.0, 1.0), (5.0, 0.5), (20.0, 2.0)])
def test_federated_calibration_error_is_that_of_the_paper(scale: float, skill: float) -> None:
    probabilities, labels = _predictions(5, 1_000, 6, scale=scale, skill=skill)
    expected = _expected_calibration_error(probabilities, labels)
    assert calibration_error(_federated(probabilities, labels)) == pytest.approx(expected, abs=1e-6)


def test_every_figure_is_none_without_examples() -> None:
    values = dataclasses.asdict(scores(ClassificationCounts.zero(3)))
    assert values.pop("num_examples") == 0
    assert values.pop("intervals") == {}
    assert set(values.values()) == {None}


def test_counts_without_histograms_give_every_other_figure() -> None:
    probabilities, labels = _predictions(6, 100, 3)
    full = scores(_of(probabilities, labels))
    small = scores(ClassificationCounts.of(probabilities, labels, np.zeros(100), histograms=False))
    assert (small.roc_auc, small.calibration_error, small.average_precision) == (None, None, None)
    assert dataclasses.replace(full, roc_auc=None, calibration_error=None, average_precision=None) == small


def test_the_server_can_take_the_values_over() -> None:
    probabilities, labels = _predictions(7, 100, 3)
    values = dataclasses.asdict(scores(_of(probabilities, labels)))
    assert Scores(**values).model_dump() == values
