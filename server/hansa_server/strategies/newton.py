"""Newton's method over all sites' examples: logistic and Cox regression as if the data were in one place.

Wu, Jiang, Kim, Ohno-Machado: Grid Binary LOgistic REgression (GLORE): building shared models without sharing data.
JAMIA 2012. Halving: Nocedal, Wright, "Numerical Optimization" (2006), algorithm 3.1 with the factor 1/2, asking for a
loss that does not rise. Shapes: ``P`` parameters.
"""

from collections.abc import Iterator, Sequence
from typing import Annotated, Final

import numpy as np
from pydantic import Field

from hansa_common.curvature import Curvature, unpack
from hansa_common.errors import StudyFailed
from hansa_common.parameters import Accumulator, ParameterSpec, Vector
from hansa_common.settings import Strict
from hansa_server.strategies.strategy import STRATEGIES, Contribution, Strategy, kept

_RISE: Final = 1e-12
"""Share of the loss by which it may rise: what is left of its 48 bits after a sum, and of parameters in float32."""
_FLAT: Final = 1e-11
"""Share of the largest curvature below which a direction has none, and no step is taken along it."""
_CONCAVE: Final = -1e-6
"""Share of the largest curvature; a convex loss has less than nothing by rounding only."""


class NewtonOptions(Strict):
    """Options of Newton's method."""

    ridge: Annotated[float, Field(ge=0.0, le=1e6)] = 0.0
    """Weight of half the squared length of the weights, without the biases, beside the mean loss over all examples."""


@STRATEGIES.register("newton")
class Newton(Strategy):
    """``x -= H^-1 g`` from the accepted point; where the loss rose there, half that step from the same point.

    What is kept is the accepted point, its loss, and the step from it that is being tried.
    """

    options = NewtonOptions

    def __init__(self, *, ridge: float = NewtonOptions().ridge) -> None:
        self._ridge = ridge
        self._penalty = np.zeros(0)
        self._state: dict[str, Accumulator] = {}
        self._next = np.zeros(0)

    def inspect(self, spec: ParameterSpec) -> None:
        """Learn which values are biases: they are not drawn to zero."""
        parts = [np.full(tensor.size, 0.0 if tensor.name.endswith("bias") else 1.0) for tensor in spec.tensors]
        self._penalty = self._ridge * np.concatenate(parts)

    def prepare(self, parameters: Vector, updates: Sequence[Contribution]) -> None:
        """Take the step from here, or half of the last one from where it started.

        Raises:
            StudyFailed: The curvature is not that of a convex loss: a site sent something else.
        """
        at = parameters.astype(np.float64)
        pooled = self._pooled(at, updates)
        last = self._state
        if last and pooled.loss > last["loss"][0] + _RISE * max(1.0, abs(last["loss"][0])):
            self._state = last | {"step": last["step"] / 2.0}
        else:
            direction = _direction(pooled)
            if direction is None:
                raise _not_convex(at.size, updates)
            self._state = {"point": at, "loss": np.array([pooled.loss]), "step": direction}
        self._next = self._state["point"] + self._state["step"]

    def step(self, part: slice, parameters: Vector, updates: Iterator[Contribution]) -> Accumulator:
        """Return a part of what ``prepare`` found."""
        del parameters, updates
        following: Accumulator = self._next[part]
        return following

    def state(self) -> dict[str, Accumulator]:
        """Return the accepted point, its loss and the step being tried."""
        return dict(self._state)

    def restore(self, state: dict[str, Accumulator]) -> None:
        """Take them back."""
        self._state = kept("Newton's method", state, "point", "loss", "step")

    def _pooled(self, at: Accumulator, updates: Sequence[Contribution]) -> Curvature:
        """Return the mean over all sites' examples, and the penalty."""
        if self._penalty.size != at.size:
            raise RuntimeError(f"The model has {at.size} values; inspected was one of {self._penalty.size}.")
        loss = 0.5 * float(self._penalty @ at**2)
        gradient, hessian = self._penalty * at, np.diag(self._penalty)
        total = sum(update.num_examples for update in updates)
        for update in updates:
            own = unpack(update.delta, at.size).scaled(update.num_examples / total)
            loss += own.loss
            gradient += own.gradient
            hessian += own.hessian
        return Curvature(loss=loss, gradient=gradient, hessian=hessian)


def _direction(found: Curvature) -> Accumulator | None:
    """Return ``-H^-1 g``, ``float64 [P]``, with nothing along directions without curvature; ``None`` if not convex.

    The parameters are measured in units that make each one's curvature 1, so that no feature's own unit decides what
    counts as none. Of softmax, whose loss does not change with a constant added to all classes, it is one of the
    steps that lead to the same predictions.
    """
    diagonal = np.diag(found.hessian)
    if not diagonal.size or diagonal.min() < 0.0:
        return None
    scale = np.sqrt(np.where(diagonal > 0.0, diagonal, 1.0))
    values, vectors = np.linalg.eigh(found.hessian / np.outer(scale, scale))
    if values[0] < _CONCAVE * max(values[-1], 1.0):
        return None
    curved = values > max(_FLAT * values[-1], 0.0)
    along = vectors[:, curved].T @ (found.gradient / scale)
    step: Accumulator = -(vectors[:, curved] @ (along / values[curved])) / scale
    return step


def _not_convex(size: int, updates: Sequence[Contribution]) -> StudyFailed:
    named = [update.site for update in updates if _direction(unpack(update.delta, size)) is None]
    return StudyFailed(
        f"The sites' curvature does not add up to that of a convex loss; not convex by itself: {', '.join(named)}.",
        advice="Such a site is faulty or hostile: leave it out of a new plan. The last checkpoint is kept.",
    )
