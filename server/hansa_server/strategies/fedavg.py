"""Federated averaging.

McMahan, Moore, Ramage, Hampson, Aguera y Arcas: Communication-Efficient Learning of Deep Networks from Decentralized
Data. AISTATS 2017, algorithm 1.
"""

from collections.abc import Iterator

from hansa_common.parameters import Accumulator, Vector
from hansa_common.settings import Strict
from hansa_server.strategies.strategy import STRATEGIES, Contribution, Strategy, weighted_mean


class FedAvgOptions(Strict):
    """Federated averaging has no options."""


@STRATEGIES.register("fedavg")
class FedAvg(Strategy):
    """``w_{t+1} = w_t + sum_k (n_k / n) * delta_k``, with ``n = sum_k n_k`` over the sites that replied.

    The paper averages parameters; averaging deltas is the same and lets sites clip and mask them.
    """

    options: type[Strict] = FedAvgOptions

    def step(self, part: slice, parameters: Vector, updates: Iterator[Contribution]) -> Accumulator:
        """Add the weighted mean of the deltas, summed in float64."""
        del part  # every value is averaged alike
        following: Accumulator = parameters + weighted_mean(parameters.size, updates)
        return following
