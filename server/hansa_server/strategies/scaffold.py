"""SCAFFOLD at the server: the model and the control variate are stepped as one vector ``[x, c]``.

Karimireddy, Kale, Mohri, Reddi, Stich, Suresh: SCAFFOLD: Stochastic Controlled Averaging for Federated Learning. ICML
2020, algorithm 1, lines 16 and 17. Shapes: ``P`` parameters, ``2 P`` in the vector.
"""

from collections.abc import Iterator, Sequence
from typing import Annotated, Literal

from pydantic import Field

from hansa_common.parameters import Accumulator, Vector
from hansa_common.settings import Strict
from hansa_server.strategies.strategy import STRATEGIES, Contribution, Strategy, weighted_sum


class ScaffoldOptions(Strict):
    """Options of SCAFFOLD."""

    server_learning_rate: Annotated[float, Field(gt=0.0, le=1e6)] = 1.0
    """Factor of the mean update."""
    weights: Literal["equal", "examples"] = "equal"
    """What sites weigh in both means."""


@STRATEGIES.register("scaffold")
class Scaffold(Strategy):
    """``x += lr * mean(delta_y)`` over the sites that replied, ``c += sum(delta_c) / N`` over all ``N`` of the study.

    The paper's sites all weigh the same. Published benchmarks (FLamby, NIID-Bench) weigh by training examples, in both
    lines. The control variate is a part of the vector that the study keeps, so there is no state beside it.
    """

    options = ScaffoldOptions

    def __init__(
        self,
        *,
        server_learning_rate: float = ScaffoldOptions().server_learning_rate,
        weights: Literal["equal", "examples"] = "equal",
    ) -> None:
        self._rate = server_learning_rate
        self._weighted = weights == "examples"
        self._sites = 0
        self._size = 0
        self._weights: dict[str, float] = {}

    def introduce(self, *, sites: int) -> None:
        """Learn ``N``."""
        self._sites = sites

    def prepare(self, parameters: Vector, updates: Sequence[Contribution]) -> None:
        """Learn ``P``, how many sites replied and what each weighs: 1 in the mean.

        Raises:
            RuntimeError: More replied than the study has.
        """
        if not len(updates) <= self._sites:
            raise RuntimeError(f"{len(updates)} sites replied; the study has {self._sites}.")
        self._size = parameters.size // 2
        mean = sum(update.num_examples for update in updates) / len(updates)
        self._weights = {update.site: update.num_examples / mean if self._weighted else 1.0 for update in updates}

    def step(self, part: slice, parameters: Vector, updates: Iterator[Contribution]) -> Accumulator:
        """Step what of the part is model and what is control variate."""
        total = weighted_sum(parameters.size, updates, self._weights)
        models = max(0, min(self._size, part.stop) - part.start)
        total[:models] *= self._rate / len(self._weights)
        total[models:] /= self._sites
        following: Accumulator = parameters + total
        return following
