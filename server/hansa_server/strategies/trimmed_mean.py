"""The coordinate-wise trimmed mean.

Yin, Chen, Ramchandran, Bartlett: Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates. ICML 2018,
algorithm 1, option II.
"""

import numpy as np

from hansa_common.parameters import Accumulator
from hansa_server.strategies.robust import CoordinateRule, HostileOptions
from hansa_server.strategies.strategy import STRATEGIES


@STRATEGIES.register("trimmed_mean")
class TrimmedMean(CoordinateRule):
    """In each coordinate the mean without the ``f`` largest and the ``f`` smallest values."""

    options = HostileOptions

    def combine(self, values: Accumulator, hostile: int) -> Accumulator:
        """Leave out both ends."""
        rising = np.sort(values, axis=0)
        mean: Accumulator = rising[hostile : len(rising) - hostile].mean(axis=0)
        return mean
