"""The positions of an update's largest values, in few bits.

Which: Aji and Heafield, "Sparse Communication for Distributed Gradient Descent", EMNLP 2017, section 3, over the whole
vector. How: the gaps between ascending positions are about geometrically distributed, for which there is Golomb's
code (IEEE Transactions on Information Theory, 1966), here with a power of two (Rice, 1979); Sattler and others, "Robust
and Communication-Efficient Federated Learning from Non-IID Data", TNNLS 2020, send positions so.

``K`` positions among ``P``; ``gap = position - the one before - 1``, where before the first one is -1; ``b`` low bits,
known from ``K`` and ``P``. Bits fill bytes from the lowest one:

    ceil(K b / 8) bytes   the low bits of each gap
    the rest              each gap's other bits as a number: so many zeros, and a one

What comes in is hostile. A gap cannot be negative, so no bytes say a position twice or out of order; how many there may
be is known before they are read, and a set of positions has one encoding only. Evolution: see ``codecs``.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from hansa_common.errors import MessageError
from hansa_common.parameters import Vector

Positions = npt.NDArray[np.int64]
_Bits = npt.NDArray[np.uint8]


def count_of(fraction: float, size: int) -> int:
    """Return ``K``, how many of ``size`` values a fraction of them is: at least one."""
    return min(size, max(1, round(fraction * size)))


def largest(vector: Vector, count: int) -> Positions:
    """Return where the values with the largest magnitudes are, ascending; of equal ones the first.

    Args:
        vector: ``float32 [P]``, finite.
        count: ``K``, at most ``P``.

    Returns:
        ``int64 [K]``.
    """
    magnitudes = np.abs(vector)
    if not count:
        return np.zeros(0, np.int64)
    least = np.partition(magnitudes, vector.size - count)[vector.size - count]
    chosen = magnitudes > least
    ties = np.flatnonzero(magnitudes == least)
    chosen[ties[: count - int(chosen.sum())]] = True
    return np.flatnonzero(chosen)


def most_bytes(count: int, size: int) -> int:
    """Return the most bytes that ``count`` of ``size`` positions have; most often a few per cent fewer are needed."""
    return _low_bytes(count, size) + _bytes_of(count + (size - count >> _low_bits(count, size)))


def encode_positions(positions: Positions, size: int) -> bytes:
    """Return ascending positions below ``size`` as bytes."""
    low_bits = _low_bits(positions.size, size)
    gaps = np.diff(positions, prepend=-1) - 1
    low: _Bits = ((gaps[:, None] >> np.arange(low_bits)) & 1).astype(np.uint8)
    ones = np.cumsum((gaps >> low_bits) + 1) - 1
    high = np.zeros(int(ones[-1]) + 1 if ones.size else 0, np.uint8)
    high[ones] = 1
    return _packed(low) + _packed(high)


def decode_positions(content: bytes, *, count: int, size: int) -> Positions:
    """Read what ``encode_positions`` wrote, from a peer that may lie.

    Args:
        content: What came in.
        count: ``K``, as the plan says.
        size: ``P``, as the plan's model has.

    Returns:
        ``int64 [K]``, ascending, each below ``size``.

    Raises:
        MessageError: The bytes are no ``count`` positions below ``size``.
    """
    most, low_bits, low_bytes = most_bytes(count, size), _low_bits(count, size), _low_bytes(count, size)
    if not low_bytes <= len(content) <= most:
        raise MessageError(f"{count:,} of {size:,} positions have up to {most:,} bytes, not {len(content):,}.")
    low, high = _unpacked(content[:low_bytes]), _unpacked(content[low_bytes:])
    if low[count * low_bits :].any():
        raise MessageError("The bits after the last position's low bits are not zero.")
    ones = np.flatnonzero(high)
    if len(ones) != count:
        raise MessageError(f"There are {len(ones):,} positions; the plan has {count:,}, no more and no fewer.")
    if len(high) - (int(ones[-1]) + 1 if count else 0) >= 8:  # noqa: PLR2004 - bits of a byte
        raise MessageError("There are bytes after the last position.")
    weights = np.int64(1) << np.arange(low_bits, dtype=np.int64)
    gaps = (np.diff(ones, prepend=-1) - 1 << low_bits) + low[: count * low_bits].reshape(count, low_bits) @ weights
    positions: Positions = np.cumsum(gaps + 1) - 1
    if count and positions[-1] >= size:
        raise MessageError(f"A position is out of range: {positions[-1]:,} of {size:,}.")
    return positions


def _low_bits(count: int, size: int) -> int:
    """Return ``b``: the power of two next below ``ln 2`` times the mean gap, by whole numbers: alike everywhere."""
    return max(0, (69 * size // (100 * max(1, count))).bit_length() - 1)


def _low_bytes(count: int, size: int) -> int:
    return _bytes_of(count * _low_bits(count, size))


def _bytes_of(bits: int) -> int:
    return -(-bits // 8)


def _packed(bits: npt.NDArray[Any]) -> bytes:
    return np.packbits(bits, bitorder="little").tobytes()


def _unpacked(content: bytes) -> _Bits:
    return np.unpackbits(np.frombuffer(content, np.uint8), bitorder="little")
