"""What a site tells of its loss for Newton's method: loss, gradient and Hessian, as one vector of float32.

Each number is ``float64`` and travels as two parts, ``float32(x)`` and ``float32(x - float32(x))``, which keep 48 of
its 53 bits. Shapes: ``P`` parameters, ``T = P (P + 1) / 2`` values in a triangle, ``V = 1 + P + T`` numbers in all.
"""

from dataclasses import dataclass, field

import numpy as np

from hansa_common.parameters import Accumulator, Vector
from hansa_common.strategies import curvature_values


@dataclass(frozen=True, slots=True, kw_only=True)
class Curvature:
    """A loss around one point.

    Attributes:
        loss: Its value.
        gradient: ``float64 [P]``.
        hessian: ``float64 [P, P]``, symmetric.
    """

    loss: float
    gradient: Accumulator = field(repr=False)
    hessian: Accumulator = field(repr=False)

    def scaled(self, factor: float) -> "Curvature":
        """Return that of ``factor`` times this loss."""
        return Curvature(loss=factor * self.loss, gradient=factor * self.gradient, hessian=factor * self.hessian)


def pack(curvature: Curvature) -> Vector:
    """Return ``float32 [2 V]``: the first parts of loss, gradient and the Hessian's upper triangle, then the second.

    A number beyond the range of float32 becomes infinite, which no release step lets out.
    """
    rows, columns = np.triu_indices(len(curvature.gradient))
    values = np.concatenate([[curvature.loss], curvature.gradient, curvature.hessian[rows, columns]])
    with np.errstate(over="ignore", invalid="ignore"):
        first = values.astype(np.float32)
        return np.concatenate([first, (values - first).astype(np.float32)])


def unpack(vector: Vector, parameters: int) -> Curvature:
    """Return what was packed.

    Args:
        vector: ``float32 [2 V]``.
        parameters: ``P``.

    Raises:
        RuntimeError: It has another length; a round refuses such an update before it gets here.
    """
    if vector.shape != (due := curvature_values(parameters),):
        raise RuntimeError(f"The curvature over {parameters} parameters has {due} values, not {list(vector.shape)}.")
    first, second = vector.astype(np.float64).reshape(2, -1)
    values = first + second
    hessian = np.zeros((parameters, parameters))
    rows, columns = np.triu_indices(parameters)
    hessian[rows, columns] = hessian[columns, rows] = values[1 + parameters :]
    return Curvature(loss=float(values[0]), gradient=values[1 : 1 + parameters], hessian=hessian)
