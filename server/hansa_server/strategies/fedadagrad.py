"""Adagrad at the server.

Reddi, Charles, Zaheer, Garrett, Rush, Konecny, Kumar, McMahan: Adaptive Federated Optimization. ICLR 2021, algorithm 2.
"""

from hansa_common.parameters import Accumulator
from hansa_common.settings import Strict
from hansa_server.strategies.adaptive import Adaptive, Beta, Rate, Tau
from hansa_server.strategies.strategy import STRATEGIES


class FedAdagradOptions(Strict):
    """Options of FedAdagrad."""

    server_learning_rate: Rate = 0.1
    beta1: Beta = 0.0
    tau: Tau = 1e-3


@STRATEGIES.register("fedadagrad")
class FedAdagrad(Adaptive):
    """``v <- v + Delta ** 2``: steps only ever become smaller."""

    options = FedAdagradOptions

    def __init__(self, *, server_learning_rate: float = 0.1, beta1: float = 0.0, tau: float = 1e-3) -> None:
        super().__init__(server_learning_rate=server_learning_rate, beta1=beta1, tau=tau)

    def second(self, second: Accumulator, square: Accumulator) -> Accumulator:
        """Add the square."""
        return second + square
