"""The geometric median by the smoothed Weiszfeld algorithm (RFA).

Pillutla, Kakade, Harchaoui: Robust Aggregation for Federated Learning. IEEE Transactions on Signal Processing 2022,
algorithm 2.
"""

from collections.abc import Sequence
from typing import Annotated, Final

import numpy as np
from pydantic import Field

from hansa_common.parameters import Accumulator
from hansa_server.strategies.robust import RobustOptions, VectorRule
from hansa_server.strategies.strategy import STRATEGIES

_SETTLED: Final = 1e-12  # weights that move by less are final


class GeometricMedianOptions(RobustOptions):
    """Options of the geometric median."""

    smoothing: Annotated[float, Field(gt=0.0, le=1e6)] = 1e-6
    """A distance below it counts as this much."""
    iterations: Annotated[int, Field(ge=1, le=100_000)] = 100
    """At most; the paper takes 3, for each costs it a round of secure sums, here a product with a small matrix."""


@STRATEGIES.register("geometric_median")
class GeometricMedian(VectorRule):
    """The point with the least sum of distances to the updates: a mean with weights ``1 / distance``."""

    options = GeometricMedianOptions

    def __init__(
        self,
        *,
        hostile: float | None = None,
        nnm: bool = False,
        smoothing: float = 1e-6,
        iterations: int = 100,
    ) -> None:
        super().__init__(hostile=hostile, nnm=nnm)
        self._smoothing = smoothing
        self._iterations = iterations

    def weigh(self, gram: Accumulator, sites: Sequence[str]) -> Accumulator:
        """Iterate from the mean: distances to ``sum_k weights[k] * x_k`` follow from the inner products."""
        weights = np.full(len(sites), 1.0 / len(sites))
        for _ in range(self._iterations):
            towards = gram @ weights
            squares = np.maximum(np.diag(gram) - 2.0 * towards + weights @ towards, 0.0)
            pull = 1.0 / np.maximum(np.sqrt(squares), self._smoothing)
            before, weights = weights, pull / pull.sum()
            if np.abs(weights - before).max() < _SETTLED:
                break
        return weights
