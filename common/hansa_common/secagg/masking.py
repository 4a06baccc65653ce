"""Key streams, and adding them to vectors: what a mask is.

A mask is the key stream of AES-256 in counter mode (NIST SP 800-38A, section 6.5; counter from zero; every key is used
for one stream), read as little-endian words and added modulo the word's range. The order of loops keeps a chunk of the
vector in the core's cache while all masks are added to it, so memory is read and written once whatever their number.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR

KEY_BYTES = 32
CHUNK = 1 << 18  # bytes; chunk, key stream and zeros stay in the second-level cache of a core
_BLOCK = 16  # bytes; what update_into asks for beyond the data's length, less one
_ZEROS = memoryview(bytes(CHUNK))

Words = npt.NDArray[np.unsignedinteger]


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskKeys:
    """The keys of one mask: of the vector's stream and of the counts' stream."""

    vector: bytes = field(repr=False)
    counts: bytes = field(repr=False)


class KeyStream:
    """The key stream of one key.

    Args:
        key: 32 bytes; must never be used for another stream.
        start: Byte at which to begin, a multiple of 16.
    """

    __slots__ = ("_cipher",)

    def __init__(self, key: bytes, *, start: int = 0) -> None:
        first = (start // _BLOCK).to_bytes(_BLOCK, "big")
        self._cipher = Cipher(AES256(key), CTR(first)).encryptor()

    def fill(self, room: npt.NDArray[np.uint8], count: int) -> None:
        """Write the next ``count`` bytes, at most ``CHUNK``, to the front of ``uint8 [>= count + 15]``."""
        self._cipher.update_into(_ZEROS[:count], room.data)


def room() -> npt.NDArray[np.uint8]:
    """Return a buffer for one chunk of a key stream."""
    return np.empty(CHUNK + _BLOCK - 1, dtype=np.uint8)


def apply(words: Words, *, add: Sequence[bytes] = (), subtract: Sequence[bytes] = (), threads: int = 1) -> None:
    """Add and subtract key streams in place, modulo 2 to the power of the words' bits.

    Args:
        words: Unsigned little-endian words ``[d]``, contiguous and writable.
        add: Keys of the streams to add.
        subtract: Keys of the streams to subtract.
        threads: How many parts of the vector are worked on at a time; cipher and sum leave Python's lock to the others.
    """
    step = CHUNK // words.itemsize
    each = max(-(-words.size // (step * threads)), 1) * step  # whole chunks, so that every part begins with a block
    parts = [words[start : start + each] for start in range(0, words.size, each)]
    starts = [number * each * words.itemsize for number in range(len(parts))]
    if len(parts) <= 1:
        for part, start in zip(parts, starts, strict=True):
            _apply(part, start, add, subtract)
        return
    with ThreadPoolExecutor(len(parts)) as pool:
        for done in [
            pool.submit(_apply, part, start, add, subtract) for part, start in zip(parts, starts, strict=True)
        ]:
            done.result()


def _apply(words: Words, offset: int, add: Sequence[bytes], subtract: Sequence[bytes]) -> None:
    """Work on a part of a vector that begins ``offset`` bytes after the vector."""
    step = CHUNK // words.itemsize
    operations: list[tuple[Sequence[bytes], np.ufunc]] = [(add, np.add), (subtract, np.subtract)]
    streams = [(KeyStream(key, start=offset), operation) for keys, operation in operations for key in keys]
    stream_bytes = room()
    stream_words = stream_bytes[:CHUNK].view(words.dtype)
    for start in range(0, words.size, step):
        chunk = words[start : start + step]
        mask = stream_words[: chunk.size]
        for stream, operation in streams:
            stream.fill(stream_bytes, chunk.nbytes)
            operation(chunk, mask, out=chunk)


def apply_masks(
    vector: Words, counts: Words, *, add: Sequence[MaskKeys], subtract: Sequence[MaskKeys], threads: int = 1
) -> None:
    """Add and subtract whole masks in place: the vector's streams and the counts' streams."""
    apply(vector, add=[keys.vector for keys in add], subtract=[keys.vector for keys in subtract], threads=threads)
    apply(counts, add=[keys.counts for keys in add], subtract=[keys.counts for keys in subtract])


def require_words(words: npt.NDArray[Any], dtype: np.dtype[Any], *, size: int | None = None) -> None:
    """Return if an array is one that ``apply`` may work on.

    Raises:
        ValueError: It is not of this type, not one-dimensional, contiguous and writable, or not of this size.
    """
    if words.dtype != dtype or words.ndim != 1 or not (words.flags.c_contiguous and words.flags.writeable):
        raise ValueError(f"Expected a contiguous, writable vector of {dtype}; found {words.dtype} {words.shape}.")
    if size is not None and words.size != size:
        raise ValueError(f"Expected {size:,} words; found {words.size:,}.")
