"""Federated averaging with server momentum.

Hsu, Qi, Brown: Measuring the Effects of Non-Identical Data Distribution for Federated Visual Classification. 2019,
arXiv:1909.06335, section 4.3.
"""

from collections.abc import Iterator, Sequence
from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import Field

from hansa_common.parameters import Accumulator, Vector
from hansa_common.settings import Strict
from hansa_server.strategies.strategy import STRATEGIES, Contribution, Strategy, kept, weighted_mean


class FedAvgMOptions(Strict):
    """Options of federated averaging with server momentum."""

    momentum: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.9
    server_learning_rate: Annotated[float, Field(gt=0.0, le=1e6)] = 1.0


@STRATEGIES.register("fedavgm")
class FedAvgM(Strategy):
    """``v <- momentum * v + sum_k (n_k / n) * delta_k``, then ``w <- w + server_learning_rate * v``.

    The paper subtracts a velocity of ``w_t - w_k``; a delta is its negative.
    """

    options = FedAvgMOptions

    def __init__(self, *, momentum: float = 0.9, server_learning_rate: float = 1.0) -> None:
        self._momentum = momentum
        self._rate = server_learning_rate
        self._velocity: Accumulator = np.zeros(0)

    def prepare(self, parameters: Vector, updates: Sequence[Contribution]) -> None:
        """Begin with no velocity."""
        del updates
        if not self._velocity.size:
            self._velocity = np.zeros(parameters.size)

    def step(self, part: slice, parameters: Vector, updates: Iterator[Contribution]) -> Accumulator:
        """Step along the velocity."""
        velocity = self._velocity[part]
        velocity *= self._momentum
        velocity += weighted_mean(parameters.size, updates)
        following: Accumulator = parameters + self._rate * velocity
        return following

    def state(self) -> dict[str, npt.NDArray[np.float64]]:
        """Return the velocity, ``float64 [P]``."""
        return {"velocity": self._velocity} if self._velocity.size else {}

    def restore(self, state: dict[str, npt.NDArray[np.float64]]) -> None:
        """Take the velocity back.

        Raises:
            RuntimeError: The state is another strategy's.
        """
        self._velocity = kept("FedAvgM", state, "velocity").get("velocity", np.zeros(0))
