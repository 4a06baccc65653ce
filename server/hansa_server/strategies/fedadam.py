"""Adam at the server.

Reddi, Charles, Zaheer, Garrett, Rush, Konecny, Kumar, McMahan: Adaptive Federated Optimization. ICLR 2021, algorithm 2.
"""

from hansa_common.parameters import Accumulator
from hansa_server.strategies.adaptive import Adaptive, AdaptiveOptions
from hansa_server.strategies.strategy import STRATEGIES


@STRATEGIES.register("fedadam")
class FedAdam(Adaptive):
    """``v <- beta2 * v + (1 - beta2) * Delta ** 2``: forgets old steps at the same pace, whatever their size."""

    options = AdaptiveOptions

    def __init__(
        self, *, server_learning_rate: float = 0.1, beta1: float = 0.9, beta2: float = 0.99, tau: float = 1e-3
    ) -> None:
        super().__init__(server_learning_rate=server_learning_rate, beta1=beta1, tau=tau)
        self._beta2 = beta2

    def second(self, second: Accumulator, square: Accumulator) -> Accumulator:
        """Average exponentially."""
        following: Accumulator = self._beta2 * second + (1.0 - self._beta2) * square
        return following
