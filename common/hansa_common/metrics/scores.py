"""The figures of a report, each computed from merged counts; ``None`` where a figure is undefined, never NaN.

Which figures there are depends on what was learned; the others are ``None``.

Macro averages are as scikit-learn takes them with ``zero_division=0``: over the classes that occur among the labels or
among the predictions.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from hansa_common.metrics.bins import CONFIDENCE_ONE, Integers
from hansa_common.metrics.classification import ClassificationCounts
from hansa_common.metrics.counts import LOSS_ONE, Counts
from hansa_common.metrics.intervals import (
    Interval,
    concordance_interval,
    delong_interval,
    rmse_interval,
    wilson_interval,
)
from hansa_common.metrics.reconstruction import ReconstructionCounts
from hansa_common.metrics.regression import VALUE_ONE, RegressionCounts
from hansa_common.metrics.survival import SurvivalCounts

_BINARY = 2
Figures = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreValues:
    """Figures of one model on one set of examples; the fields are those of the server's ``results.Scores``."""

    num_examples: int
    loss: float | None = None
    accuracy: float | None = None
    balanced_accuracy: float | None = None
    precision: float | None = None
    recall: float | None = None
    f1: float | None = None
    roc_auc: float | None = None
    calibration_error: float | None = None
    average_precision: float | None = None
    rmse: float | None = None
    mae: float | None = None
    bias: float | None = None
    r2: float | None = None
    cmapss_score: float | None = None
    c_index: float | None = None
    events: int | None = None
    reconstruction_error: float | None = None
    anomaly_error: float | None = None
    intervals: dict[str, Interval] = field(default_factory=dict)


def scores(counts: Counts) -> ScoreValues:
    """Return every figure that the counts give, and how sure those are for which there is an interval.

    Raises:
        TypeError: Nobody wrote the figures of such counts.
    """
    match counts:
        case ClassificationCounts():
            return _classification(counts)
        case RegressionCounts():
            return _regression(counts)
        case SurvivalCounts():
            return _survival(counts)
        case ReconstructionCounts():
            return _reconstruction(counts)
    raise TypeError(f"There are no figures of {counts.describe()}.")


def _intervals(**found: Interval | None) -> dict[str, Interval]:
    return {name: interval for name, interval in found.items() if interval is not None}


def _classification(counts: ClassificationCounts) -> ScoreValues:
    area = None
    if counts.has_histograms and counts.classes == _BINARY:
        area = delong_interval(*(histogram[1] for histogram in counts.histograms()[:2]))
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
        average_precision=average_precision(counts) if counts.has_histograms else None,
        intervals=_intervals(
            accuracy=wilson_interval(int(np.trace(counts.confusion)), counts.num_examples), roc_auc=area
        ),
    )


def _regression(counts: RegressionCounts) -> ScoreValues:
    number = counts.num_examples
    if not number:
        return ScoreValues(num_examples=0)
    unit = counts.scale / VALUE_ONE
    # n times the sum of squares minus the square of the sum: whole numbers, so nothing cancels away
    spread = number * counts.number_squared - (counts.above - counts.below) ** 2
    return ScoreValues(
        num_examples=number,
        loss=counts.mean_loss,
        rmse=(counts.squared / number) ** 0.5 * unit,
        mae=(counts.over + counts.under) / number * unit,
        bias=(counts.over - counts.under) / number * unit,
        r2=1.0 - number * counts.squared / spread if spread else None,
        cmapss_score=counts.score_units / LOSS_ONE if counts.scored else None,
        intervals=_intervals(rmse=rmse_interval(counts)),
    )


def _survival(counts: SurvivalCounts) -> ScoreValues:
    return ScoreValues(
        num_examples=counts.num_examples,
        loss=counts.mean_loss,
        c_index=(counts.concordant + counts.tied / 2) / counts.pairs if counts.pairs else None,
        events=counts.events,
        intervals=_intervals(c_index=concordance_interval(counts)),
    )


def _reconstruction(counts: ReconstructionCounts) -> ScoreValues:
    area = precise = sure = None
    if counts.histogram is not None:
        usual, unusual = counts.histogram
        area, precise, sure = _area(unusual, usual), _average_precision(unusual, usual), delong_interval(unusual, usual)
    anomalous = counts.examples[1]
    return ScoreValues(
        num_examples=counts.num_examples,
        loss=counts.mean_loss,
        reconstruction_error=counts.mean_loss,
        anomaly_error=counts.units[1] / LOSS_ONE / anomalous if anomalous else None,
        roc_auc=area,
        average_precision=precise,
        intervals=_intervals(roc_auc=sure),
    )


def loss(counts: Counts) -> float | None:
    """Return the mean loss; that of a classifier in nats."""
    return counts.mean_loss


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
    areas = [area for k in _curves(counts) if (area := _area(positives[k], negatives[k])) is not None]
    return _mean(np.array(areas))


def average_precision(counts: ClassificationCounts) -> float | None:
    """Return the average precision: one class against the rest, mean over classes; of class 1 if there are two.

    The sum over thresholds of the precision times the step in recall, as scikit-learn has it, without interpolation
    (Zhu: Recall, Precision and Average Precision, 2004). Scores of one bin are taken as equal. A class without
    positives has none and is left out.

    Raises:
        RuntimeError: The counts have no histograms.
    """
    positives, negatives, _ = counts.histograms()
    means = [mean for k in _curves(counts) if (mean := _average_precision(positives[k], negatives[k])) is not None]
    return _mean(np.array(means))


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


def _curves(counts: ClassificationCounts) -> range:
    return range(1, _BINARY) if counts.classes == _BINARY else range(counts.classes)


def _average_precision(positives: Integers, negatives: Integers) -> float | None:
    occupied = np.flatnonzero(positives | negatives)[::-1]  # the highest scores first
    hits, alarms = positives[occupied], negatives[occupied]
    if not hits.any():
        return None
    found = hits.cumsum()
    return float(np.dot(hits / hits.sum(), found / (found + alarms.cumsum())))


def _macro(counts: ClassificationCounts, figure: Callable[[Integers, Integers, Integers], Figures]) -> float | None:
    rows, columns = counts.confusion.sum(axis=1), counts.confusion.sum(axis=0)
    occurs = rows + columns > 0
    return _mean(figure(np.diag(counts.confusion)[occurs], rows[occurs], columns[occurs]))


def _divide(numerator: Integers, denominator: Integers) -> Figures:
    """Divide; 0 where the denominator is 0 (and with it the numerator)."""
    return numerator / np.maximum(denominator, 1)


def _mean(values: Figures) -> float | None:
    return float(values.mean()) if values.size else None
