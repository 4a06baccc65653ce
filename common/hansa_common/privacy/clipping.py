"""Clipping in L2: what bounds how much one unit can change a sum.

Abadi et al., Deep Learning with Differential Privacy, CCS 2016, algorithm 1 (``g / max(1, |g| / C)``), for one vector.

Formal guarantees
-----------------

For every float32 vector ``x`` and every finite ``C >= 0``, ``clip_l2(x, C)`` either raises or returns a float32 vector
``y`` with

1. ``l2_norm(y) <= C`` **after** rounding to float32, not only in exact arithmetic;
2. every coordinate finite, of the sign of ``x``'s or zero, and no larger than ``x``'s;
3. ``y`` equal to ``x`` where ``l2_norm(x) <= C`` already; so clipping twice is clipping once.

The sensitivity of a sum of such vectors to adding or removing one of them is therefore at most ``C``.

| input | result |
|---|---|
| ``C`` = 0 | the zero vector |
| ``C`` infinite, NaN or negative | ``PrivacyError``: it bounds nothing |
| zero vector, empty vector | itself |
| NaN or an infinity in ``x`` | ``ReleaseRefused``; ``min(1, C / norm)`` would let NaN through |
| values whose squares overflow float32 | clipped: the norm is summed in float64 |
| ``C`` so small that the result is subnormal | rounded until 1. holds, to the zero vector in the end |
"""

import math
from typing import Final, NamedTuple

import numpy as np

from hansa_common.errors import PrivacyError, ReleaseRefused
from hansa_common.parameters import CHUNK, Vector, is_finite, l2_norm

_SHRINK: Final = (1.0, 1.0 - 2.0**-23, 1.0 - 2.0**-20, 1.0 - 2.0**-10, 0.5)  # float32 rounds by at most 2**-24


class Clipped(NamedTuple):
    """A clipped vector, and what it was before."""

    vector: Vector
    """``float32 [P]``: ``l2_norm`` is at most the bound. The input itself where that was so already."""
    norm_before: float
    """A value of the unit's own data: it leaves only with noise, through ``quantile``."""


def check_bound(bound: float) -> float:
    """Return a clipping bound that bounds something.

    Raises:
        PrivacyError: It is negative, infinite or NaN.
    """
    if not (math.isfinite(bound) and bound >= 0.0):
        raise PrivacyError(f"clipping bound: found {bound!r}.", advice="Allowed is a finite number of at least 0.")
    return bound


def clip_l2(vector: Vector, bound: float) -> Clipped:
    """Scale a vector down to an L2 norm of at most ``bound``; see the module for the guarantees.

    Args:
        vector: ``float32 [P]``; it is not changed.
        bound: In the units of the vector.

    Raises:
        PrivacyError: The bound is negative, infinite or NaN.
        ReleaseRefused: A value is NaN or infinite.
        RuntimeError: It is no one-dimensional float32 array.
    """
    check_bound(bound)
    if vector.dtype != np.float32 or vector.ndim != 1:
        raise RuntimeError(f"Clipping takes a float32 vector; found {vector.dtype} {vector.shape}.")
    if not is_finite(vector):
        raise ReleaseRefused(
            "The update holds NaN or infinite values; no clipping bounds them.",
            advice="Lower the learning rate, or look at the data.",
        )
    norm = l2_norm(vector)
    if norm <= bound:
        return Clipped(vector, norm)
    clipped = np.empty_like(vector)
    for shrink in _SHRINK:
        _scale(vector, shrink * (bound / norm), clipped)
        if l2_norm(clipped) <= bound:
            return Clipped(clipped, norm)
    clipped.fill(0.0)
    return Clipped(clipped, norm)


def _scale(vector: Vector, factor: float, out: Vector) -> None:
    for start in range(0, vector.size, CHUNK):
        part = slice(start, start + CHUNK)
        out[part] = vector[part].astype(np.float64) * factor
