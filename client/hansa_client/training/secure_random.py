"""Randomness that protects people: keyed by the operating system, never by the plan's seed, which all members know.

Whom a step samples and which noise covers what leaves are drawn from a ``Keystream``: AES-256 in counter mode under a
key from ``os.urandom``. Whoever could repeat these draws could subtract the noise.
"""

from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from hansa_common.privacy.keystream import Keystream

Integers = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

_FRACTION: Final = 53  # bits of a float64 in 1/2..1


class Randomness(Protocol):
    """What private training and counting draw."""

    def sample(self, count: int, rate: float) -> Mask:
        """Return ``bool [count]``, each true with probability ``rate``, independently of the others."""

    def below(self, limits: Integers) -> Integers:
        """Return ``int64 [N]``, each uniform in ``0..limit - 1``."""

    def gaussian(self, deviation: float, count: int) -> Integers:
        """Return ``int64 [count]``: draws of N(0, deviation^2), rounded to whole numbers."""

    def seed(self) -> int:
        """Return a seed of 63 bits for a generator that takes no other."""


class SecureRandomness:
    """A stream of its own for each object; for one thread at a time."""

    __slots__ = ("_stream",)

    def __init__(self) -> None:
        self._stream = Keystream()

    def _fractions(self, count: int) -> npt.NDArray[np.float64]:
        """Return multiples of 2**-53 in 0..1, without 1."""
        return (self._stream.words(count) >> np.uint64(64 - _FRACTION)).astype(np.float64) * 2.0**-_FRACTION

    def sample(self, count: int, rate: float) -> Mask:
        """See ``Randomness``; the probability is ``rate`` rounded down to a multiple of 2**-64.

        Raises:
            ValueError: The rate is not in 0..1, without 1.
        """
        if not 0.0 <= rate < 1.0:
            raise ValueError(f"A sampling rate of {rate} is not in 0..1, without 1.")
        mask: Mask = self._stream.words(count) < np.uint64(int(rate * 2.0**64))
        return mask

    def below(self, limits: Integers) -> Integers:
        """See ``Randomness``; a limit of n makes a probability wrong by at most n / 2**53 of itself."""
        drawn: Integers = (self._fractions(len(limits)) * limits).astype(np.int64)
        return np.minimum(drawn, limits - 1)

    def gaussian(self, deviation: float, count: int) -> Integers:
        """See ``Randomness``; Box and Muller, "A Note on the Generation of Random Normal Deviates", 1958.

        The radius has 106 random bits, so that the tail goes on to 12 standard deviations as it should.
        """
        pairs = (count + 1) // 2
        coarse, fine, angle = self._fractions(pairs), self._fractions(pairs), self._fractions(pairs)
        radius = np.sqrt(-2.0 * np.log(coarse + (fine + 2.0 ** -(_FRACTION + 1)) * 2.0**-_FRACTION))
        angle *= 2.0 * np.pi
        normal = np.concatenate((radius * np.cos(angle), radius * np.sin(angle)))[:count]
        return np.rint(normal * deviation).astype(np.int64)

    def seed(self) -> int:
        """See ``Randomness``."""
        return self._stream.word() >> 1
