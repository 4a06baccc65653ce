"""SCAFFOLD at the server: the model and the control variate are stepped as one vector ``[x, c]``.

Karimireddy, Kale, Mohri, Reddi, Stich, Suresh: SCAFFOLD: Stochastic Controlled Averaging for Federated Learning. ICML
2020, algorithm 1, lines 16 and 17. Shapes: ``P`` parameters, ``2 P`` in the vector.
"""

from collections.abc import Iterator, Sequence
from typing import Annotated

import numpy as np
from pydantic import Field

from hansa_common.parameters import Accumulator, Vector, add_scaled
from hansa_common.settings import Strict
from hansa_server.strategies.strategy import STRATEGIES, Contribution, Strategy


class ScaffoldOptions(Strict):
    """Options of SCAFFOLD."""

    server_learning_rate: Annotated[float, Field(gt=0.0, le=1e6)] = 1.0
    """Factor of the mean update."""


@STRATEGIES.register("scaffold")
class Scaffold(Strategy):
    """``x += lr * mean(delta_y)`` over the sites that replied, ``c += sum(delta_c) / N`` over all ``N`` of the study.

    Both are plain: the paper's sites all weigh the same. The control variate is a part of the vector that the study
    keeps, so there is no state beside it.
    """

    options = ScaffoldOptions

    def __init__(self, *, server_learning_rate: float = ScaffoldOptions().server_learning_rate) -> None:
        self._rate = server_learning_rate
        self._sites = 0
        self._size = 0
        self._replied = 0

    def introduce(self, *, sites: int) -> None:
        """Learn ``N``."""
        self._sites = sites

    def prepare(self, parameters: Vector, updates: Sequence[Contribution]) -> None:
        """Learn ``P`` and how many sites replied.

        Raises:
            RuntimeError: More replied than the study has.
        """
        self._size, self._replied = parameters.size // 2, len(updates)
        if not self._replied <= self._sites:
            raise RuntimeError(f"{self._replied} sites replied; the study has {self._sites}.")

    def step(self, part: slice, parameters: Vector, updates: Iterator[Contribution]) -> Accumulator:
        """Step what of the part is model and what is control variate."""
        total = np.zeros(parameters.size)
        for update in updates:
            add_scaled(total, update.delta, 1.0)
        models = max(0, min(self._size, part.stop) - part.start)
        total[:models] *= self._rate / self._replied
        total[models:] /= self._sites
        following: Accumulator = parameters + total
        return following
