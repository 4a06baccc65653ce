"""The discrete Gaussian on the integers, exact and vectorised: ``P[x]`` is proportional to ``exp(-x**2 / (2 s**2))``.

Canonne, Kamath, Steinke: The Discrete Gaussian for Differential Privacy, NeurIPS 2020. It has no floating-point gaps
whose pattern gives the noiseless value away (Mironov, CCS 2012), and sums of it stay in the ring of a secure sum. Their
algorithm 3 makes one draw at a time; this one makes a batch, by rejection from blocks of equal length:

1. a block ``b``, ``[b B, (b + 1) B)``, with probability ``w_b / 2**64``, by the alias method (Walker, 1977) on
   integers; ``w_b`` is ``ceil(K exp(-(b B)**2 / (2 s**2)))``, what is missing to ``2**64`` a block always rejected;
2. ``x`` uniform in the block: ``B`` is a power of two, so ``j = x - b B`` is some bits of a word; and a sign;
3. reject a negative zero; else accept with probability ``p(x) = K exp(-x**2 / (2 s**2)) / w_b``, at most 1.

Beyond the last block, 9 ``s`` away, follow infinitely many of length ``T``, the g-th chosen with ``2**-(g + 1)``.

Why this is exact
-----------------

An accepted ``x`` had probability ``w_b / 2**64 * 1 / B * 1/2 * p(x)``, which is ``exp(-x**2 / (2 s**2))`` times a
constant. Steps 1 and 2 use integers only. Step 3 asks whether a uniform real ``u``, of which a word gives the first 64
bits, is below the real number ``p(x)``. Both are first computed in float64, and the answer is taken where they differ
by more than ``2**-40``. Else ``p(x)`` is computed to 50 and more decimal digits (``decimal``'s ``exp`` is correctly
rounded) and ``u`` gets 64 more bits, until the two intervals are disjoint. The float64 value is off by less than
``2**-48``: ``j (2 b B + j) / (2 s**2)`` is below 0.6 with six roundings, and ``exp`` errs by less than four units in
the last place. So floats decide nothing that they cannot, and with any larger margin the same keystream gives the same
draws: a test does that.
"""

import decimal
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from math import isqrt
from typing import Final

import numpy as np
import numpy.typing as npt

from hansa_common.errors import PrivacyError
from hansa_common.privacy.keystream import Keystream, Words

Integers = npt.NDArray[np.int64]

_COLUMNS: Final = 512  # of the alias table: at most 9 * 32 blocks, the tail and the rejected rest
_THRESHOLD_BITS: Final = 55  # of a word, beside 9 for the column
_BATCH: Final = 1 << 14  # candidates: three words each stay in a core's cache
_MARGIN: Final = 2.0**-40
_DIGITS: Final = 50
_SMALLEST: Final = Fraction(1, 1 << 8)  # variance; less is no noise
_LARGEST: Final = Fraction(1 << 100)  # variance; nine deviations are far below 2**63


@dataclass(frozen=True, slots=True, kw_only=True)
class _Blocks:
    """What is the same for all draws of one variance."""

    variance: Fraction
    shift: int
    """``B = 2**shift``."""
    tail: int
    """Number of the block that stands for the tail; the one after it is rejected."""
    tail_length: int
    """``T``, in which the density at least halves."""
    scale: int
    """``K``."""
    weights: tuple[int, ...]
    threshold: Words
    alias: Integers
    ratio: npt.NDArray[np.float64]
    """``p`` at a block's first integer; 0 for the tail and the rest, which float64 never accepts."""


class DiscreteGaussian:
    """A sampler for one variance; it draws on, whatever the sizes asked for.

    Args:
        variance: ``s**2``, exact: the deviation itself need not be rational.
        stream: Where the randomness comes from.
        reach: Deviations up to where blocks are listed; a test lowers it to draw from the tail.
        margin: Difference below which a comparison is decided exactly; a test raises it to decide all of them so.

    Raises:
        PrivacyError: The variance is below ``2**-8`` or above ``2**100``.
    """

    def __init__(self, variance: Fraction, stream: Keystream, *, reach: int = 9, margin: float = _MARGIN) -> None:
        if not _SMALLEST <= variance <= _LARGEST:
            raise PrivacyError(
                f"noise: found a variance of {float(variance):g}.",
                advice="Allowed are 2**-8 to 2**100, in units of the grid.",
            )
        self._blocks = _weigh(variance, reach)
        self._stream = stream
        self._margin = margin
        self._unused: Integers = np.empty(0, dtype=np.int64)

    def __repr__(self) -> str:
        return f"DiscreteGaussian(variance={float(self._blocks.variance):g})"

    def draw(self, count: int) -> Integers:
        """Return ``int64 [count]``."""
        out = np.empty(count, dtype=np.int64)
        filled = 0
        while filled < count:
            if self._unused.size == 0:
                self._unused = self._batch()
            taken = self._unused[: count - filled]
            out[filled : filled + taken.size] = taken
            filled += taken.size
            self._unused = self._unused[taken.size :]
        return out

    def chunks(self, count: int, *, size: int = 1 << 18) -> Iterator[Integers]:
        """Yield ``count`` draws in arrays of at most ``size``, so that memory stays flat."""
        for start in range(0, count, size):
            yield self.draw(min(size, count - start))

    def add_to(self, values: Integers) -> None:
        """Add a draw to each of ``int64 [P]``, in place and a chunk at a time."""
        start = 0
        for noise in self.chunks(values.size):
            values[start : start + noise.size] += noise
            start += noise.size

    def _batch(self) -> Integers:
        """Return what is accepted of a batch of candidates, in their order."""
        blocks = self._blocks
        chosen, placed, tested = self._stream.words(3 * _BATCH).reshape(3, _BATCH)
        block = self._choose(chosen)
        offset = (placed & np.uint64((1 << blocks.shift) - 1)).astype(np.int64)
        base = block << blocks.shift
        value = base + offset
        exponent = offset.astype(np.float64) * (base + value).astype(np.float64)
        exponent *= float(-1 / (2 * blocks.variance))
        probability = blocks.ratio[block] * np.exp(exponent)
        uniform = (tested >> np.uint64(11)).astype(np.float64) * 2.0**-53
        accepted = uniform < probability
        is_close = np.abs(uniform - probability) <= self._margin
        for index in np.flatnonzero(is_close & (block < blocks.tail) | (block == blocks.tail)).tolist():
            value[index], accepted[index] = self._decide(int(block[index]), int(value[index]), int(tested[index]))
        is_negative = (placed >> np.uint64(63)).astype(bool)
        accepted &= ~(is_negative & (value == 0))
        np.negative(value, out=value, where=is_negative)
        result: Integers = value[accepted]
        return result

    def _choose(self, words: Words) -> Integers:
        column = (words >> np.uint64(_THRESHOLD_BITS)).astype(np.int64)
        is_below = (words & np.uint64((1 << _THRESHOLD_BITS) - 1)) < self._blocks.threshold[column]
        block: Integers = np.where(is_below, column, self._blocks.alias[column])
        return block

    def _decide(self, block: int, value: int, uniform: int) -> tuple[int, bool]:
        """Return the candidate and whether it is accepted, in exact arithmetic."""
        blocks = self._blocks
        factor = Fraction(blocks.scale, blocks.weights[block])
        if block == blocks.tail:
            number = _trailing_zeros(self._stream)
            offset = self._stream.word() & (blocks.tail_length - 1)
            value = (blocks.tail << blocks.shift) + number * blocks.tail_length + offset
            factor *= Fraction(blocks.tail_length << (number + 1), 1 << blocks.shift)
        return value, self._is_below(uniform, value, factor)

    def _is_below(self, uniform: int, value: int, factor: Fraction) -> bool:
        """Tell whether a uniform real with these first 64 bits is below ``factor * exp(-value**2 / (2 s**2))``."""
        bits, digits = 64, _DIGITS
        while True:
            low, high = (Fraction(bound) * factor for bound in _density(value, self._blocks.variance, digits))
            if Fraction(uniform + 1, 1 << bits) <= low:
                return True
            if Fraction(uniform, 1 << bits) >= high:
                return False
            uniform, bits, digits = uniform << 64 | self._stream.word(), bits + 64, digits + 25


@functools.lru_cache(maxsize=32)
def _weigh(variance: Fraction, reach: int) -> _Blocks:
    """Choose the blocks and their weights and build the alias table; all in integers."""
    shift = max(0, isqrt(int(variance / 256)).bit_length() - 1)
    length = 1 << shift
    tail = isqrt(int(variance * reach**2 / length**2)) + 2
    start, tail_length = tail * length, length
    while 10 * (2 * start * tail_length + tail_length**2) < 14 * variance:  # ln 2 < 0.7
        tail_length *= 2
    context = decimal.Context(prec=_DIGITS, rounding=decimal.ROUND_CEILING)
    bounds = [_density(block * length, variance, _DIGITS) for block in range(tail + 1)]
    heights = [high for _, high in bounds]
    heights[tail] = context.multiply(heights[tail], 2 * tail_length // length)
    space = _COLUMNS << _THRESHOLD_BITS
    scale = int((space - len(heights)) / sum(map(Fraction, heights)))
    weights = [int(context.multiply(height, scale).to_integral_value(decimal.ROUND_CEILING)) for height in heights]
    threshold, alias = _alias_table([*weights, space - sum(weights)])
    ratio = np.zeros(_COLUMNS)
    ratio[:tail] = [float(Fraction(bounds[block][0]) * scale / weights[block]) for block in range(tail)]
    return _Blocks(
        variance=variance,
        shift=shift,
        tail=tail,
        tail_length=tail_length,
        scale=scale,
        weights=tuple(weights),
        threshold=threshold,
        alias=alias,
        ratio=ratio,
    )


def _density(value: int, variance: Fraction, digits: int) -> tuple[decimal.Decimal, decimal.Decimal]:
    """Return bounds, from below and above, of ``exp(-value**2 / (2 variance))`` that differ by ``10**(10 - digits)``.

    The exponent is below ``10**8``, so its last digit changes the result by a relative ``10**(8 - digits)`` at most.
    """
    context = decimal.Context(prec=digits)
    exponent = Fraction(value * value) / (2 * variance)
    quotient = context.divide(decimal.Decimal(-exponent.numerator), decimal.Decimal(exponent.denominator))
    density = context.exp(quotient)
    slack = context.scaleb(density, 9 - digits)
    return context.subtract(density, slack), context.add(density, slack)


def _trailing_zeros(stream: Keystream) -> int:
    """Return ``g`` with probability ``2**-(g + 1)``."""
    zeros = 0
    while (word := stream.word()) == 0:
        zeros += 64
    return zeros + (word & -word).bit_length() - 1


def _alias_table(weights: list[int]) -> tuple[Words, Integers]:
    """Return thresholds and aliases that choose ``i`` with probability ``weights[i] / 2**64``, exactly.

    Walker: An efficient method for generating discrete random variables with general distributions, ACM TOMS 1977.
    """
    full = 1 << _THRESHOLD_BITS
    if sum(weights) != _COLUMNS * full or len(weights) > _COLUMNS or min(weights) < 0:
        raise RuntimeError("The weights do not fill the alias table.")
    left = weights + [0] * (_COLUMNS - len(weights))
    threshold, alias = [full] * _COLUMNS, list(range(_COLUMNS))
    small = [index for index, weight in enumerate(left) if weight < full]
    large = [index for index, weight in enumerate(left) if weight > full]
    while small:
        low, high = small.pop(), large[-1]
        threshold[low], alias[low] = left[low], high
        left[high] -= full - left[low]
        if left[high] <= full:
            large.pop()
            if left[high] < full:
                small.append(high)
    return np.array(threshold, dtype=np.uint64), np.array(alias, dtype=np.int64)
