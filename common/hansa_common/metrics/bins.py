"""Where scores and confidences are counted: bins that are the same at every site and in every version of the protocol.

Score bins are equally spaced in ``asinh(logit(p) / 2)``: the logit, finer where the scores of most models lie and
coarser in the tails. One of 32,768 bins is 0.0005 logits wide around p = 1/2 and 0.02 around 1e-43. The range holds
every float32 probability, so that saturated scores (1e-30 beside 1e-20) stay apart; 0 and 1 are in the outermost bins.

Evolution: never change a number of this file. Counts of other bins cannot be merged.
"""

from functools import lru_cache

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32] | npt.NDArray[np.float64]

LOWEST_LOGIT = -104.0  # below the least float32 above 0, 1.4e-45 = expit(-103.3)
HIGHEST_LOGIT = 17.5  # above the greatest float32 below 1, 1 - 2**-24 = expit(16.6)
MAX_SCORE_BINS = 1 << 15
MIN_SCORE_BINS = 1 << 9
MAX_CELLS = 1 << 19  # int64 values of one histogram over all classes: 4 MiB, until MIN_SCORE_BINS asks for more

CALIBRATION_BINS = 15  # as in Guo et al., "On Calibration of Modern Neural Networks", ICML 2017
CONFIDENCE_ONE = 1 << 24  # fixed point in which a confidence is summed: one float32 ulp below 1


def score_bins(classes: int) -> int:
    """Return ``B``, the number of score bins in a study with ``classes`` classes: a power of two.

    With more classes a class gets fewer bins; the macro average over many classes evens out what that loses.
    """
    bins = min(MAX_SCORE_BINS, max(MIN_SCORE_BINS, MAX_CELLS // classes))
    return 1 << (bins.bit_length() - 1)


@lru_cache(maxsize=8)
def score_edges(bins: int) -> npt.NDArray[np.float64]:
    """Return the ``bins - 1`` inner edges as probabilities, ascending, float64."""
    low, high = np.arcsinh(LOWEST_LOGIT / 2), np.arcsinh(HIGHEST_LOGIT / 2)
    logits = 2 * np.sinh(np.linspace(low, high, bins + 1)[1:-1])
    small = np.exp(-np.abs(logits))
    return np.asarray(np.where(logits < 0, small, 1.0) / (1.0 + small))


def score_bin(probabilities: Floats, bins: int) -> Integers:
    """Return the bin of each probability, in the shape of ``probabilities``; a bin holds its lower edge.

    It is a search in a table, not a logarithm: the bin of a score does not depend on the scores beside it.
    """
    return np.searchsorted(score_edges(bins), probabilities, side="right").astype(np.int64)


def fixed_confidence(confidences: Floats) -> Integers:
    """Return confidences in 0..1 as multiples of ``1 / CONFIDENCE_ONE``."""
    return np.rint(confidences.astype(np.float64) * CONFIDENCE_ONE).astype(np.int64)


def confidence_bin(fixed: Integers) -> Integers:
    """Return the calibration bin ``m`` of each fixed-point confidence: in ``(m / 15, (m + 1) / 15]``, or 0."""
    return np.maximum((fixed * CALIBRATION_BINS - 1) // CONFIDENCE_ONE, 0)
