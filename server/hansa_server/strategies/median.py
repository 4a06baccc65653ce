"""The coordinate-wise median.

Yin, Chen, Ramchandran, Bartlett: Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates. ICML 2018,
algorithm 1, option I.
"""

import numpy as np

from hansa_common.parameters import Accumulator
from hansa_server.strategies.robust import CoordinateRule, RobustOptions
from hansa_server.strategies.strategy import STRATEGIES


@STRATEGIES.register("median")
class Median(CoordinateRule):
    """``w_j <- w_j + median_k delta_kj``; of an even number of sites, the mean of the two in the middle."""

    options = RobustOptions

    def combine(self, values: Accumulator, hostile: int) -> Accumulator:
        """Take the median."""
        del hostile  # a majority is enough
        middle: Accumulator = np.median(values, axis=0)
        return middle
