"""Norm bounding: no update counts for more than its bound.

Sun, Kairouz, Suresh, McMahan: Can You Really Backdoor Federated Learning? 2019, arXiv:1911.07963, section 4.
"""

from collections.abc import Sequence
from typing import Annotated

import numpy as np
from pydantic import Field

from hansa_common.parameters import Accumulator
from hansa_server.strategies.robust import RobustOptions, VectorRule
from hansa_server.strategies.strategy import STRATEGIES


class NormBoundOptions(RobustOptions):
    """Options of norm bounding."""

    bound: Annotated[float, Field(gt=0.0, le=1e12)]
    """Largest L2 norm of an update; a longer one is scaled down by the server."""


@STRATEGIES.register("norm_bound")
class NormBound(VectorRule):
    """``w <- w + mean_k delta_k * min(1, bound / ||delta_k||)``."""

    options = NormBoundOptions

    def __init__(self, *, bound: float, hostile: float | None = None, nnm: bool = False) -> None:
        super().__init__(hostile=hostile, nnm=nnm)
        self._bound = bound

    def weigh(self, gram: Accumulator, sites: Sequence[str]) -> Accumulator:
        """Scale long updates down."""
        lengths = np.sqrt(np.diag(gram))
        weights: Accumulator = self._bound / np.maximum(lengths, self._bound) / len(sites)
        return weights
