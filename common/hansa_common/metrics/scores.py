"""The figures of a report, each computed from merged counts; ``None`` where a figure is undefined, never NaN.

Macro averages are as scikit-learn takes them with ``zero_division=0``: over the classes that occur among the labels or
among the predictions.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hansa_common.metrics.bins import CONFIDENCE_ONE, Integers
from hansa_common.metrics.counts import ClassificationCounts

Figures = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreValues:
    """Figures of one model on one set of examples; the fields are those of the server's ``results.Scores``."""

    num_examples: int
    loss: float | None
    accuracy: float | None
    balanced_accuracy: float | None
    precision: float | None
    recall: float | None
    f1: float | None
    roc_auc: float | None
    calibration_error: float | None


def scores(counts: ClassificationCounts) -> ScoreValues:
    """Return every figure; ROC AUC and calibration error are ``None`` for counts without histograms."""
    return ScoreValues(
        num_examples=counts.num_examples,
        loss=loss(counts),
        accuracy=accuracy(counts),
        balanced_accuracy=balanced_accuracy(counts),
        precision=precision(counts),
        recall=recall(counts),
        f1=f1(counts),
        roc_auc=roc_auc(counts) if counts.has_histograms else None,
        calibration_error=calibration_error(counts) if counts.has_histograms else None,
    )


def loss(counts: ClassificationCounts) -> float | None:
    """Return the mean loss in nats."""
    return counts.loss_sum / counts.num_examples if counts.num_examples else None


def accuracy(counts: ClassificationCounts) -> float | None:
    """Return the share of examples whose most probable class is the true one."""
    return int(np.trace(counts.confusion)) / counts.num_examples if counts.num_examples else None


def balanced_accuracy(counts: ClassificationCounts) -> float | None:
    """Return the mean recall of the classes that occur among the labels."""
    rows = counts.confusion.sum(axis=1)
    return _mean(np.diag(counts.confusion)[rows > 0] / rows[rows > 0])


def precision(counts: ClassificationCounts) -> float | None:
    """Return the macro-averaged precision."""
    return _macro(counts, lambda hits, _rows, columns: _divide(hits, columns))


def recall(counts: ClassificationCounts) -> float | None:
    """Return the macro-averaged recall."""
    return _macro(counts, lambda hits, rows, _columns: _divide(hits, rows))


def f1(counts: ClassificationCounts) -> float | None:
    """Return the macro-averaged F1: the mean over classes of ``2 TP / (2 TP + FP + FN)``."""
    return _macro(counts, lambda hits, rows, columns: _divide(2 * hits, rows + columns))


def roc_auc(counts: ClassificationCounts) -> float | None:
    """Return the area under the ROC curve: one class against the rest, mean over classes; of class 1 if there are two.

    Scores of one bin are tied and count half (the trapezoid rule), so the figure differs from that of the scores
    themselves by less than half the share of pairs in one bin. A class without positives or without negatives has no
    curve and is left out.

    Raises:
        RuntimeError: The counts have no histograms.
    """
    positives, negatives, _ = counts.histograms()
    binary = 2
    classes = [1] if counts.classes == binary else range(counts.classes)
    areas = [area for k in classes if (area := _area(positives[k], negatives[k])) is not None]
    return _mean(np.array(areas))


def calibration_error(counts: ClassificationCounts) -> float | None:
    """Return the expected calibration error with 15 bins (Guo et al., ICML 2017, equation 3).

    Raises:
        RuntimeError: The counts have no histograms.
    """
    examples, confidences, hits = counts.histograms()[2].T
    gaps = np.abs(confidences / CONFIDENCE_ONE - hits)
    return float(gaps.sum() / examples.sum()) if examples.sum() else None


def _area(positives: Integers, negatives: Integers) -> float | None:
    """Return P(score of a positive > score of a negative) + P(tie) / 2 (the Mann-Whitney statistic)."""
    occupied = np.flatnonzero(positives | negatives)  # a site has far fewer examples than there are bins
    positives, negatives = positives[occupied], negatives[occupied]
    pairs = float(positives.sum()) * float(negatives.sum())
    if pairs == 0.0:
        return None
    above = positives.sum() - positives.cumsum()
    return float(np.dot(negatives.astype(np.float64), above + positives / 2)) / pairs


def _macro(counts: ClassificationCounts, figure: Callable[[Integers, Integers, Integers], Figures]) -> float | None:
    rows, columns = counts.confusion.sum(axis=1), counts.confusion.sum(axis=0)
    occurs = rows + columns > 0
    return _mean(figure(np.diag(counts.confusion)[occurs], rows[occurs], columns[occurs]))


def _divide(numerator: Integers, denominator: Integers) -> Figures:
    """Divide; 0 where the denominator is 0 (and with it the numerator)."""
    return numerator / np.maximum(denominator, 1)


def _mean(values: Figures) -> float | None:
    return float(values.mean()) if values.size else None
