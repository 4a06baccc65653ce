"""Updates as integers modulo a power of two: what can be masked and summed exactly.

A coordinate in ``[-range, range]`` becomes one of the integers ``-q_max ... q_max`` by unbiased stochastic rounding;
the server decodes the sum of all sites. ``P`` parameters.

Guarantees, each a test:

* No sum of the plan's sites leaves the ring: ``n * (q_max + 1) + 8 * noise < 2^(bits - 1)``, checked when this is
  built.
* Rounding is unbiased: a coordinate is brought to the grid of ``step / 65536``, to nearest, and from there rounded up
  with exactly the probability that is left. The 16 random bits of each coordinate come from AES-256 in counter mode
  under a fresh key of the operating system.
* NaN and infinity are refused. Finite values beyond the range are clamped to it and counted.
"""

import math
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hansa_common.errors import PlanError, ReleaseRefused
from hansa_common.secagg.masking import KeyStream, Words, room

_GRID_BITS = 16
_CHUNK = 1 << 15  # coordinates; all temporaries of one chunk stay in the second-level cache
_NOISE_SIGMAS = 8  # a Gaussian is beyond with probability 1e-15
_MOST_BITS = {16: 15, 32: 31}
_DTYPES = {16: "<u2", 32: "<u4"}
_SIGNED = {16: "<i2", 32: "<i4"}


class Rounding:
    """Random bits for stochastic rounding; one of these serves one vector, in as many pieces as you like.

    Args:
        key: 32 bytes; another than fresh ones of the operating system only for test vectors.
    """

    __slots__ = ("_bytes", "_stream", "_words")

    def __init__(self, key: bytes | None = None) -> None:
        self._stream = KeyStream(os.urandom(32) if key is None else key)
        self._bytes = room()
        self._words = self._bytes[: 2 * _CHUNK].view("<u2")

    def __repr__(self) -> str:
        return "Rounding()"

    def draw(self, count: int) -> npt.NDArray[np.uint16]:
        """Return ``uint16 [count]``, at most one chunk; the next call overwrites it."""
        self._stream.fill(self._bytes, 2 * count)
        drawn: npt.NDArray[np.uint16] = self._words[:count]
        return drawn


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedPoint:
    """The encoding that a plan asks for.

    Args:
        ring_bits: 16 or 32.
        coordinate_range: Largest absolute value of a coordinate, in the update's units.
        sites: ``n``, all sites of the plan.
        noise: Standard deviation of the noise in the sum, in units of ``step``.
        q_max: Integers go from ``-q_max`` to ``q_max``; by default one less than the largest power of two that fits.

    Raises:
        PlanError: A sum of all sites could leave the ring.
    """

    ring_bits: int
    coordinate_range: float
    sites: int
    noise: float = 0.0
    q_max: int = 0

    def __post_init__(self) -> None:
        if self.ring_bits not in _MOST_BITS or self.sites < 1 or self.q_max < 0:
            raise ValueError("A ring has 16 or 32 bits; the number of sites is positive.")
        if not (math.isfinite(self.coordinate_range) and self.coordinate_range > 0):
            raise PlanError(
                f"coordinate_range: found {self.coordinate_range}; allowed is a positive number.",
                path="coordinate_range",
            )
        if not (math.isfinite(self.noise) and self.noise >= 0):
            raise ValueError("Noise is a standard deviation.")
        if self.noise and self.ring_bits == 16:  # noqa: PLR2004
            raise PlanError(
                "ring_bits: found 16; noise needs 32.",
                path="ring_bits",
                advice="Noise in a sum does not fit beside the updates in 16 bits.",
            )
        if not self.q_max:
            object.__setattr__(self, "q_max", self._largest_power() - 1)
        if self.q_max < 1 or self.sites * (self.q_max + 1) + _NOISE_SIGMAS * self.noise >= self._half:
            raise PlanError(
                f"ring_bits: {self.sites} sites with values up to {self.q_max} and noise of {self.noise:g} could leave "
                f"a ring of {self.ring_bits} bits; allowed are values up to {self._largest()}.",
                path="ring_bits",
                advice="Take 32 bits, fewer levels or less noise.",
            )

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of encoded words."""
        return np.dtype(_DTYPES[self.ring_bits])

    @property
    def step(self) -> float:
        """What one unit is worth, in the update's units."""
        return self.coordinate_range / self.q_max

    def encode(
        self,
        vector: npt.NDArray[np.float32],
        weight: float = 1.0,
        *,
        rounding: Rounding,
        noise: npt.NDArray[np.int32] | npt.NDArray[np.int64] | None = None,
        out: Words | None = None,
    ) -> tuple[Words, int]:
        """Return ``weight * vector`` as words of the ring, and how many coordinates were clamped.

        Args:
            vector: ``float32 [P]``, or a piece of it.
            weight: This site's part, in ``(0, 1]``.
            rounding: Random bits; the same object for all pieces of one vector.
            noise: Integers ``[P]`` to add, in units.
            out: Room for the words.

        Raises:
            ReleaseRefused: A coordinate is NaN or infinite.
            ValueError: The weight is outside its range.
        """
        if not 0 < weight <= 1:
            raise ValueError("A weight is more than 0 and at most 1.")
        words: Words = np.empty(vector.size, dtype=self.dtype) if out is None else out
        encode_chunk = _encode_narrow if self.ring_bits == 16 else _encode_wide  # noqa: PLR2004
        clamped = 0
        for start in range(0, vector.size, _CHUNK):
            part = slice(start, start + _CHUNK)
            values = vector[part]
            if not np.isfinite(values).all():
                raise ReleaseRefused("The update holds NaN or infinity; it cannot be encoded.")
            clamped += values.size - int(np.count_nonzero(np.abs(values) <= self.coordinate_range))
            grid = encode_chunk(values, self.coordinate_range, weight / self.step, rounding.draw(values.size))
            if noise is not None:
                grid = grid + noise[part]
            np.copyto(words[part], grid, casting="unsafe")  # C's conversion is modulo the word's range
        return words, clamped

    def decode(self, words: Words, *, out: npt.NDArray[Any] | None = None) -> npt.NDArray[Any]:
        """Return a sum of encoded vectors in the update's units.

        Args:
            words: ``[P]``.
            out: ``float32`` or ``float64 [P]``; a new ``float64`` one by default.
        """
        result = np.empty(words.size, dtype=np.float64) if out is None else out
        signed = words.view(_SIGNED[self.ring_bits])
        for start in range(0, words.size, _CHUNK):
            part = slice(start, start + _CHUNK)
            np.multiply(signed[part], self.step, out=result[part], dtype=np.float64, casting="same_kind")
        return result

    @property
    def _half(self) -> int:
        return 1 << (self.ring_bits - 1)

    def _largest(self) -> int:
        return max(math.ceil((self._half - _NOISE_SIGMAS * self.noise) / self.sites) - 2, 0)

    def _largest_power(self) -> int:
        return 1 << ((self._largest() + 1).bit_length() - 1)


def _encode_narrow(
    values: npt.NDArray[np.float32], limit: float, scale: float, random: npt.NDArray[np.uint16]
) -> npt.NDArray[Any]:
    """Round in 32 bits: at most 15 for the integer, 16 for the grid."""
    scaled = np.clip(values, np.float32(-limit), np.float32(limit))
    scaled *= np.float32(scale * (1 << _GRID_BITS))
    np.rint(scaled, out=scaled)
    grid = scaled.astype(np.int32)
    grid += random
    grid >>= _GRID_BITS
    return grid


def _encode_wide(
    values: npt.NDArray[np.float32], limit: float, scale: float, random: npt.NDArray[np.uint16]
) -> npt.NDArray[Any]:
    """Round in 64 bits: float32 has too few digits for 31 bits of integer and 16 of grid."""
    scaled = values.astype(np.float64)
    np.clip(scaled, -limit, limit, out=scaled)
    scaled *= scale * (1 << _GRID_BITS)
    np.rint(scaled, out=scaled)
    grid = scaled.astype(np.int64)
    grid += random
    grid >>= _GRID_BITS
    return grid
