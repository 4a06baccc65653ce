"""Adaptive optimisation at the server: what FedAdagrad, FedAdam and FedYogi have in common.

Reddi, Charles, Zaheer, Garrett, Rush, Konecny, Kumar, McMahan: Adaptive Federated Optimization. ICLR 2021, algorithm 2.
Defaults of betas and tau are the paper's (appendix D); it tunes the server's learning rate.
"""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import Field

from hansa_common.parameters import Accumulator, Vector
from hansa_common.settings import Strict
from hansa_server.strategies.strategy import Contribution, Strategy, kept, weighted_mean

Rate = Annotated[float, Field(gt=0.0, le=1e6)]
Beta = Annotated[float, Field(ge=0.0, lt=1.0)]
Tau = Annotated[float, Field(ge=1e-150, le=1e6)]  # its square must be above 0


class AdaptiveOptions(Strict):
    """Options of FedAdam and FedYogi."""

    server_learning_rate: Rate = 0.1
    beta1: Beta = 0.9
    """How much of the mean of past steps is kept."""
    beta2: Beta = 0.99
    """How much of the mean of their squares is kept."""
    tau: Tau = 1e-3
    """How adaptive the steps are: the smaller, the more."""


class Adaptive(Strategy):
    """With ``Delta = sum_k (n_k / n) * delta_k``, coordinate by coordinate.

    ``m <- beta1 * m + (1 - beta1) * Delta``; ``v`` by the rule; ``w <- w + rate * m / (sqrt(v) + tau)``.
    ``m`` starts at 0 and ``v`` at ``tau ** 2``, the least that the paper allows; there is no bias correction.
    """

    def __init__(self, *, server_learning_rate: float, beta1: float, tau: float) -> None:
        self._rate = server_learning_rate
        self._beta1 = beta1
        self._tau = tau
        self._first: Accumulator = np.zeros(0)
        self._second: Accumulator = np.zeros(0)

    @abstractmethod
    def second(self, second: Accumulator, square: Accumulator) -> Accumulator:
        """Return the next ``v``, ``float64 [C]``, from the last one and ``Delta ** 2``."""

    def prepare(self, parameters: Vector, updates: Sequence[Contribution]) -> None:
        """Begin with ``m = 0`` and ``v = tau ** 2``."""
        del updates
        if not self._first.size:
            self._first = np.zeros(parameters.size)
            self._second = np.full(parameters.size, self._tau**2)

    def step(self, part: slice, parameters: Vector, updates: Iterator[Contribution]) -> Accumulator:
        """Step by the quotient of the moments."""
        mean = weighted_mean(parameters.size, updates)
        first = self._first[part]
        first *= self._beta1
        first += (1.0 - self._beta1) * mean
        second = self._second[part]
        second[:] = self.second(second, mean * mean)
        following: Accumulator = parameters + self._rate * first / (np.sqrt(second) + self._tau)
        return following

    def state(self) -> dict[str, npt.NDArray[np.float64]]:
        """Return both moments, ``float64 [P]`` each."""
        return {"first": self._first, "second": self._second} if self._first.size else {}

    def restore(self, state: dict[str, npt.NDArray[np.float64]]) -> None:
        """Take both moments back.

        Raises:
            RuntimeError: The state is another strategy's.
        """
        vectors = kept(type(self).__name__, state, "first", "second")
        self._first, self._second = vectors.get("first", np.zeros(0)), vectors.get("second", np.zeros(0))
