"""Vectors in fewer bits: ``bf16``, ``int8`` and ``int4`` in blocks of 256 values with one scale each, and ``topk``.

Blocks, and stochastic rounding to ``floor(x / scale + u)`` with u uniform in 0..1: Alistarh and others, "QSGD:
Communication-Efficient SGD via Gradient Quantization and Encoding", NeurIPS 2017, section 3.1, with the largest
absolute value of a block as its norm. The mean of what is decoded is what was encoded. Zstandard: RFC 8878.

Bytes of ``P`` values in ``B = ceil(P / 256)`` blocks, little-endian:

    float32  4 P
    bf16     2 P             the upper half of a float32, rounded to nearest even
    int8     4 B + P         scales float32, then values -127..127
    int4     4 B + ceil(P/2) scales float32, then values -7..7 as nibbles, the first in the lower half
    topk     the K values of largest magnitude as int8, rounded to nearest, and where they are: ``positions``. The
             others are 0; who sends ``topk`` keeps what it left out and adds it to the next vector

What comes in is hostile: its length is known before it is unpacked, a compressed one says its length first and may not
have another, and each value has one encoding only. Evolution: a codec never changes; another way gets another name.
"""

from typing import Any, Final

import numpy as np
import numpy.typing as npt
import zstandard

from hansa_common.errors import MessageError, ReleaseRefused
from hansa_common.parameters import Vector, is_finite
from hansa_common.positions import count_of, decode_positions, encode_positions, largest, most_bytes
from hansa_common.transport_plan import Codec

BLOCK: Final = 256  # values that share a scale
_LEVELS: Final = {"int8": 127, "int4": 7}
_ZSTD_LEVEL: Final = 3
_PIECE: Final = BLOCK << 12  # values rounded at once: 4 MiB of float32
Bytes = npt.NDArray[np.uint8]


def packed_size(codec: Codec, size: int, *, fraction: float = 1.0) -> int:
    """Return how many bytes ``size`` values have, before compression; with ``topk`` the most that there can be."""
    if codec == "topk":
        count = count_of(fraction, size)
        return packed_size("int8", count) + most_bytes(count, size)
    blocks = -(-size // BLOCK)
    return {"float32": 4 * size, "bf16": 2 * size, "int8": 4 * blocks + size, "int4": 4 * blocks + -(-size // 2)}[codec]


def pack(vector: Vector, codec: Codec, *, compress: bool, seed: int | None, fraction: float = 1.0) -> bytes:
    """Return a vector's bytes.

    Args:
        vector: ``float32 [P]``, finite.
        codec: In which it travels.
        compress: With Zstandard.
        seed: Of stochastic rounding; ``None`` rounds to the nearest value, and ``topk`` always does.
        fraction: Of the values that travel with ``topk``.

    Raises:
        ReleaseRefused: A value is not finite, or becomes infinite in ``bf16``.
    """
    if not is_finite(vector):
        raise ReleaseRefused("A vector with NaN or infinity cannot be encoded.")
    if codec == "float32":
        content = vector.astype("<f4", copy=False).tobytes()
    elif codec == "bf16":
        content = _to_bf16(vector)
    elif codec == "topk":
        where = largest(vector, count_of(fraction, vector.size))
        content = _quantise(vector[where], "int8", None) + encode_positions(where, vector.size)
    else:
        content = _quantise(vector, codec, seed)
    return zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compress(content) if compress else content


def unpack(content: bytes, codec: Codec, *, compress: bool, size: int, fraction: float = 1.0) -> Vector:
    """Read what ``pack`` wrote, from a peer that may lie.

    Args:
        content: What came in.
        codec: As the plan says.
        compress: As the plan says.
        size: ``P``, as the plan's model has.
        fraction: As the plan says.

    Returns:
        ``float32 [P]``, finite.

    Raises:
        MessageError: The bytes are none of this codec and size.
    """
    expected = packed_size(codec, size, fraction=fraction)
    least = packed_size("int8", count_of(fraction, size)) if codec == "topk" else expected
    if compress:
        content = _decompress(content, least, expected)
    if not least <= len(content) <= expected:
        raise MessageError(f"{size:,} values of codec '{codec}' have {expected:,} bytes, not {len(content):,}.")
    if codec == "float32":
        vector: Vector = np.frombuffer(content, "<f4")
    elif codec == "bf16":
        vector = (np.frombuffer(content, "<u2").astype(np.uint32) << 16).view(np.float32)
    elif codec == "topk":
        count = count_of(fraction, size)
        vector = np.zeros(size, np.float32)
        vector[decode_positions(content[least:], count=count, size=size)] = _restore(content[:least], "int8", count)
    else:
        vector = _restore(content, codec, size)
    if not is_finite(vector):
        raise MessageError("A value is NaN or infinite.")
    return vector


def unpacked_bytes(content: bytes | memoryview) -> int:
    """Return how many bytes there are once our own ``pack`` is undone, compressed or not."""
    try:
        return max(len(content), zstandard.frame_content_size(content))
    except zstandard.ZstdError:
        return len(content)


def _decompress(content: bytes, least: int, most: int) -> bytes:
    """Return what is in one frame that says that it holds so many bytes, and does."""
    try:
        if not least <= zstandard.get_frame_parameters(content).content_size <= most:
            raise MessageError("The compressed bytes say that they hold another number of bytes.")
        decompressor = zstandard.ZstdDecompressor()
        found = decompressor.decompress(content, max_output_size=most, allow_extra_data=False)
    except zstandard.ZstdError:
        raise MessageError("The compressed bytes are no frame of Zstandard.") from None
    return found


def _to_bf16(vector: Vector) -> bytes:
    bits = vector.view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    if ((rounded & 0x7F80) == 0x7F80).any():  # noqa: PLR2004  # all bits of the exponent: infinity
        raise ReleaseRefused("A value is too large for codec 'bf16'.")
    return rounded.astype("<u2").tobytes()


def _quantise(vector: Vector, codec: Codec, seed: int | None) -> bytes:
    levels, size = _LEVELS[codec], len(vector)
    rng = None if seed is None else np.random.Generator(np.random.Philox(seed))
    scales = np.zeros(-(-size // BLOCK), np.float32)
    values = np.zeros(len(scales) * BLOCK, np.int8)
    for start in range(0, size, _PIECE):
        part = np.zeros(min(_PIECE, len(values) - start), np.float32)
        part[: size - start] = vector[start : start + _PIECE]
        blocks = part.reshape(-1, BLOCK)
        scale = np.abs(blocks).max(axis=1) / np.float32(levels)
        steps = np.divide(blocks, scale[:, None], out=np.zeros_like(blocks), where=scale[:, None] > 0.0)
        rounded = np.rint(steps) if rng is None else np.floor(steps + rng.random(steps.shape, dtype=np.float32))
        values[start : start + len(part)] = rounded.clip(-levels, levels).astype(np.int8).ravel()
        scales[start // BLOCK : start // BLOCK + len(scale)] = scale
    scales[~values.reshape(-1, BLOCK).any(axis=1)] = 0.0  # a block of zeros has one encoding
    values[size:] = 0
    head = scales.astype("<f4").tobytes()
    if codec == "int8":
        return head + values[:size].tobytes()
    nibbles = values[: size + size % 2].view(np.uint8) & np.uint8(15)
    return head + (nibbles[::2] | nibbles[1::2] << np.uint8(4)).astype(np.uint8).tobytes()


def _restore(content: bytes, codec: Codec, size: int) -> Vector:
    levels, blocks = _LEVELS[codec], -(-size // BLOCK)
    scales = np.frombuffer(content, "<f4", count=blocks)
    if not np.isfinite(scales).all() or np.signbit(scales).any() or (scales > np.finfo(np.float32).max / levels).any():
        raise MessageError("A scale is negative, not finite or too large.")
    raw: Bytes = np.frombuffer(content, np.uint8, offset=4 * blocks)
    values = np.zeros(blocks * BLOCK, np.int8)
    if codec == "int8":
        values[:size] = raw.view(np.int8)
    else:
        both: npt.NDArray[Any] = np.stack((raw & np.uint8(15), raw >> np.uint8(4)), axis=1).ravel()
        if size % 2 and both[-1]:
            raise MessageError("The half byte after the last value is not zero.")
        values[:size] = ((both[:size].astype(np.int8) ^ 8) - 8).astype(np.int8)
    if values.min(initial=0) < -levels:
        raise MessageError("A value is below the least that the codec has.")
    occupied = values.reshape(-1, BLOCK).any(axis=1)
    if not np.array_equal(occupied, scales > 0.0):
        raise MessageError("A block of zeros has a scale, or one with values has none.")
    restored = values.reshape(-1, BLOCK).astype(np.float32) * scales[:, None]
    vector: Vector = restored.ravel()[:size]
    return vector
