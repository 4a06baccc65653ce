"""How sure a figure is: 95 % intervals, each computed from counts that merge across sites.

They allow for the chance that other examples of the same sites would have been tested; not for other sites, not for
another seed of training, and not for noise that was added to counts.
"""

import math
from typing import Final

import numpy as np

from hansa_common.metrics.bins import Integers
from hansa_common.metrics.regression import VALUE_ONE, RegressionCounts
from hansa_common.metrics.survival import SurvivalCounts

NORMAL_QUANTILE: Final = 1.959963984540054  # two-sided 95 %
_FEWEST: Final = 2  # of anything whose spread is taken

Interval = tuple[float, float]


def wilson_interval(hits: int, trials: int) -> Interval | None:
    """Return the score interval of a proportion (Wilson, Journal of the American Statistical Association 1927)."""
    if not trials:
        return None
    z2 = NORMAL_QUANTILE**2
    share = hits / trials
    centre = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = NORMAL_QUANTILE / (1 + z2 / trials) * math.sqrt(share * (1 - share) / trials + z2 / (4 * trials**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def delong_interval(positives: Integers, negatives: Integers) -> Interval | None:
    """Return the interval of the area under a ROC curve (DeLong, DeLong and Clarke-Pearson, Biometrics 1988).

    An example's placement, the share of the other kind that it is on the right side of, depends on its bin only, so the
    variances of the placements come from the histograms. ``None`` with fewer than two of either kind.

    Args:
        positives: ``int64 [B]``, by rising score.
        negatives: ``int64 [B]``.
    """
    occupied = np.flatnonzero(positives | negatives)
    hits, alarms = positives[occupied].astype(np.float64), negatives[occupied].astype(np.float64)
    most, others = hits.sum(), alarms.sum()
    if min(most, others) < _FEWEST:
        return None
    of_hits = (alarms.cumsum() - alarms / 2) / others
    of_alarms = 1.0 - (hits.cumsum() - hits / 2) / most
    area = float(np.dot(hits, of_hits) / most)
    variance = (
        np.dot(hits, (of_hits - area) ** 2) / (most - 1) / most
        + np.dot(alarms, (of_alarms - area) ** 2) / (others - 1) / others
    )
    return _around(area, float(variance), lowest=0.0, highest=1.0)


def concordance_interval(counts: SurvivalCounts) -> Interval | None:
    """Return the interval of the concordance index (Pencina and D'Agostino, Statistics in Medicine 2004).

    The index is a ratio of two U-statistics; a person's part in it is the score of their pairs minus the index times
    their number.
    """
    if not counts.pairs or counts.num_examples < _FEWEST:
        return None
    pairs, score = counts.pairs, 2 * counts.concordant + counts.tied  # the score of a pair is 2, 1 or 0
    # sum over people of (own score - 2 c own pairs)^2 with c = score / 2 pairs, times pairs^2: in whole numbers
    spread = (
        counts.own_scores_squared * pairs**2
        - 2 * score * pairs * counts.own_products
        + score**2 * counts.own_pairs_squared
    )
    variance = max(0, spread) / (4 * pairs**4)
    return _around(score / (2 * pairs), variance, lowest=0.0, highest=1.0)


def rmse_interval(counts: RegressionCounts) -> Interval | None:
    """Return the interval of the root of the mean squared error: the normal one of the mean, by its own spread."""
    number = counts.num_examples
    if number < _FEWEST:
        return None
    mean = counts.squared / number
    variance = max(0, number * counts.fourth - counts.squared**2) / (number**2 * (number - 1))
    low, high = _around(mean, variance, lowest=0.0, highest=math.inf)
    unit = counts.scale / VALUE_ONE
    return math.sqrt(low) * unit, math.sqrt(high) * unit


def _around(figure: float, variance: float, *, lowest: float, highest: float) -> Interval:
    half = NORMAL_QUANTILE * math.sqrt(variance)
    return max(lowest, figure - half), min(highest, figure + half)
