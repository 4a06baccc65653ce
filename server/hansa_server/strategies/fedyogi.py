"""Yogi at the server.

Reddi, Charles, Zaheer, Garrett, Rush, Konecny, Kumar, McMahan: Adaptive Federated Optimization. ICLR 2021, algorithm 2.
"""

import numpy as np

from hansa_common.parameters import Accumulator
from hansa_server.strategies.adaptive import Adaptive, AdaptiveOptions
from hansa_server.strategies.strategy import STRATEGIES


@STRATEGIES.register("fedyogi")
class FedYogi(Adaptive):
    """``v <- v - (1 - beta2) * Delta ** 2 * sign(v - Delta ** 2)``: ``v`` falls slowly where steps become small."""

    options = AdaptiveOptions

    def __init__(
        self, *, server_learning_rate: float = 0.1, beta1: float = 0.9, beta2: float = 0.99, tau: float = 1e-3
    ) -> None:
        super().__init__(server_learning_rate=server_learning_rate, beta1=beta1, tau=tau)
        self._beta2 = beta2

    def second(self, second: Accumulator, square: Accumulator) -> Accumulator:
        """Move towards the square, by a part of the square."""
        following: Accumulator = second - (1.0 - self._beta2) * square * np.sign(second - square)
        return following
