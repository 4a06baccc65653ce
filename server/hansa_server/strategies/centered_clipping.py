"""Centered clipping: updates are clipped around the step of the last round.

Karimireddy, He, Jaggi: Learning from History for Byzantine Robust Optimization. ICML 2021, section 4, equation CC.
"""

from collections.abc import Iterator, Sequence
from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import Field

from hansa_common.parameters import Accumulator, Vector
from hansa_server.strategies.robust import Robust, RobustOptions, gram_of
from hansa_server.strategies.strategy import STRATEGIES, Contribution, kept, weighted_sum


class CenteredClippingOptions(RobustOptions):
    """Options of centered clipping."""

    radius: Annotated[float, Field(gt=0.0, le=1e12)]
    """How far from the last step an update counts in full."""
    iterations: Annotated[int, Field(ge=1, le=1000)] = 1


@STRATEGIES.register("centered_clipping")
class CenteredClipping(Robust):
    """``v <- v + mean_k (x_k - v) * min(1, radius / ||x_k - v||)``, ``iterations`` times, then ``w <- w + v``.

    ``v`` is kept from round to round, and starts at 0.
    """

    options = CenteredClippingOptions

    def __init__(self, *, radius: float, iterations: int = 1, hostile: float | None = None, nnm: bool = False) -> None:
        super().__init__(hostile=hostile, nnm=nnm)
        self._radius = radius
        self._iterations = iterations
        self._center: Accumulator = np.zeros(0)

    def prepare(self, parameters: Vector, updates: Sequence[Contribution]) -> None:
        """Work out the next center as a weighted sum of the last one and the updates."""
        if not self._center.size:
            self._center = np.zeros(parameters.size)
        gram = gram_of([self._center, *(update.delta for update in updates)])
        mixing = np.eye(len(gram))
        mixing[1:, 1:] = self.mixing(gram[1:, 1:])
        weights = self._clipped(mixing @ gram @ mixing.T) @ mixing
        self._kept = float(weights[0])
        self._weights = {update.site: float(weight) for update, weight in zip(updates, weights[1:], strict=True)}

    def _clipped(self, gram: Accumulator) -> Accumulator:
        """Return the next center's coefficients, ``float64 [1 + S]``, of the last center and the mixed updates."""
        center = np.zeros(len(gram))
        center[0] = 1.0
        for _ in range(self._iterations):
            away = np.eye(len(gram))[1:] - center  # [S, 1 + S]: each update minus the center
            lengths = np.sqrt(np.maximum(np.einsum("si,ij,sj->s", away, gram, away), 0.0))
            scales = self._radius / np.maximum(lengths, self._radius)
            center = center + scales @ away / len(away)
        return center

    def step(self, part: slice, parameters: Vector, updates: Iterator[Contribution]) -> Accumulator:
        """Step by the center."""
        center = self._center[part]
        center *= self._kept
        center += weighted_sum(parameters.size, updates, self._weights)
        following: Accumulator = parameters + center
        return following

    def state(self) -> dict[str, npt.NDArray[np.float64]]:
        """Return the center, ``float64 [P]``."""
        return {"center": self._center} if self._center.size else {}

    def restore(self, state: dict[str, npt.NDArray[np.float64]]) -> None:
        """Take the center back.

        Raises:
            RuntimeError: The state is another strategy's.
        """
        self._center = kept("Centered clipping", state, "center").get("center", np.zeros(0))
