"""What a report draws: the ROC curve of a class and the reliability diagram."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from hansa_common.metrics.bins import CONFIDENCE_ONE, Integers
from hansa_common.metrics.classification import ClassificationCounts

Points = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reliability:
    """A reliability diagram: its occupied bins, by rising confidence.

    Attributes:
        confidence: ``float64 [bins]``, mean probability of the predicted class.
        accuracy: ``float64 [bins]``, share of right predictions.
        examples: ``int64 [bins]``.
    """

    confidence: Points = field(repr=False)
    accuracy: Points = field(repr=False)
    examples: Integers = field(repr=False)


def roc_curve(counts: ClassificationCounts, k: int) -> tuple[Points, Points] | None:
    """Return false-positive and true-positive rates of class ``k`` against the rest, from (0, 0) to (1, 1).

    A straight stretch is given by its two ends. ``None`` where the class has no positives or no negatives.

    Raises:
        RuntimeError: The counts have no histograms.
    """
    positives, negatives, _ = counts.histograms()
    hits, alarms = positives[k][::-1], negatives[k][::-1]
    if not hits.any() or not alarms.any():
        return None
    occupied = (hits > 0) | (alarms > 0)
    hits, alarms = hits[occupied], alarms[occupied]
    bends = np.append(hits[:-1] * alarms[1:] != hits[1:] * alarms[:-1], True)
    rates = (np.append(0.0, counted.cumsum()[bends] / counted.sum()) for counted in (alarms, hits))
    false_positives, true_positives = rates
    return false_positives, true_positives


def reliability(counts: ClassificationCounts) -> Reliability:
    """Return the reliability diagram (Guo et al., ICML 2017, figure 1).

    Raises:
        RuntimeError: The counts have no histograms.
    """
    calibration = counts.histograms()[2]
    examples, confidences, hits = calibration[calibration[:, 0] > 0].T
    return Reliability(
        confidence=confidences / CONFIDENCE_ONE / examples, accuracy=hits / examples, examples=examples.copy()
    )
