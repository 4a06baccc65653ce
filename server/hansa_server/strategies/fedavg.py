"""Federated averaging.

McMahan, Moore, Ramage, Hampson, Aguera y Arcas: Communication-Efficient Learning of Deep Networks from Decentralized
Data. AISTATS 2017, algorithm 1.
"""

import numpy as np

from hansa_common.parameters import CHUNK, Accumulator, Vector, add_scaled
from hansa_common.settings import Strict
from hansa_server.strategies.strategy import STRATEGIES, Contribution, Strategy


class FedAvgOptions(Strict):
    """Federated averaging has no options."""


@STRATEGIES.register("fedavg")
class FedAvg(Strategy):
    """``w_{t+1} = w_t + sum_k (n_k / n) * delta_k``, with ``n = sum_k n_k`` over the sites that replied.

    The paper averages parameters; averaging deltas is the same and lets sites clip and mask them. The sum is kept in
    float64, one accumulator whatever the number of sites.
    """

    options = FedAvgOptions

    def __init__(self) -> None:
        self._sum: Accumulator | None = None
        self._num_examples = 0

    def fold(self, contribution: Contribution) -> None:
        """Add ``n_k * delta_k``."""
        if self._sum is None:
            self._sum = np.zeros(contribution.delta.size)
        add_scaled(self._sum, contribution.delta, contribution.num_examples)
        self._num_examples += contribution.num_examples

    def finish(self, parameters: Vector) -> Vector:
        """Add the weighted mean of the deltas.

        Raises:
            RuntimeError: Nothing was folded in.
        """
        if self._sum is None:
            raise RuntimeError("There is no update to average.")
        following = np.empty_like(parameters)
        for start in range(0, parameters.size, CHUNK):  # no temporary of the model's size
            part = slice(start, start + CHUNK)
            with np.errstate(over="ignore"):  # the study refuses a model that is not finite
                following[part] = parameters[part] + self._sum[part] / self._num_examples
        self._sum, self._num_examples = None, 0
        return following
