"""Vectors of the model's size out of memory: in an unnamed file each, mapped, unless they are small.

A file has no name and vanishes with the last use of it, or with the process; it is never synced, so what the kernel's
cache has room for may not reach the disk at all.
"""

import contextlib
import itertools
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Final

import numpy as np

from hansa_common.errors import StudyFailed
from hansa_common.files import storage
from hansa_common.mapping import is_mapped, map_file
from hansa_common.parameters import Vector, chunks, is_finite

_SMALL: Final = 4 << 20  # bytes of a vector that stays in memory
_HELD_IN_MEMORY: Final = 32 << 20  # bytes of updates kept in memory
_MAPPINGS: Final = 256  # mapped replies kept as they are: each has a descriptor


def keep(pieces: Iterable[Vector], size: int, folder: Path, *, small: int = _SMALL) -> Vector:
    """Put a vector together from its parts, as a read-only view of bytes that go out as they are, without a copy.

    Args:
        pieces: ``float32``, in order.
        size: Values of the whole.
        folder: Where its file lies.
        small: Bytes up to which it needs none.

    Raises:
        StorageError: The disk is full or fails.
    """
    if 4 * size <= small:
        return np.frombuffer(b"".join(piece.astype("<f4", copy=False).tobytes() for piece in pieces), "<f4")
    with contextlib.ExitStack() as stack:
        with storage(folder, "keep a model in"):
            file = stack.enter_context(tempfile.TemporaryFile(dir=folder))
        for piece in pieces:
            with storage(folder, "keep a model in"):
                file.write(piece.astype("<f4", copy=False).data)
        with storage(folder, "keep a model in"):
            file.flush()
            return np.frombuffer(map_file(file, offset=0, size=4 * size), "<f4")


class HeldUpdates:
    """A round's deltas until it closes: mapped, in memory while they are few, in one unnamed file beyond that.

    Args:
        folder: Where the file lies.
        in_memory: Bytes to keep in memory.
        mappings: How many mapped deltas to keep as they are.
    """

    def __init__(self, folder: Path, *, in_memory: int = _HELD_IN_MEMORY, mappings: int = _MAPPINGS) -> None:
        self._folder = folder
        self._room = in_memory
        self._mappings = mappings
        self._deltas: dict[str, Vector] = {}
        self._places: dict[str, tuple[int, int]] = {}  # site -> position in bytes and number of values
        self._file: IO[bytes] | None = None
        self._size = 0  # bytes of the file
        self._mapped: memoryview | None = None  # the whole file

    def put(self, site: str, delta: Vector) -> None:
        """Keep one delta.

        Raises:
            StorageError: The disk is full or fails.
        """
        if is_mapped(delta) and self._mappings:
            self._mappings -= 1
            self._deltas[site] = delta
        elif not is_mapped(delta) and delta.nbytes <= self._room:
            self._room -= delta.nbytes
            self._deltas[site] = delta
        else:
            self._write(site, delta)

    def _write(self, site: str, delta: Vector) -> None:
        with storage(self._folder, "hold an update in"):
            if self._file is None:
                self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 - open for the round
            self._file.seek(self._size)
            for chunk in chunks(delta):
                self._file.write(chunk.data)
            self._file.flush()
        self._places[site] = (self._size, delta.size)
        self._size += delta.nbytes
        self._mapped = None

    def get(self, site: str) -> Vector:
        """Return it, read only.

        Raises:
            StorageError: The disk fails.
        """
        if site in self._deltas:
            return self._deltas[site]
        position, size = self._places[site]
        if self._mapped is None:
            assert self._file is not None
            with storage(self._folder, "read back an update from"):
                self._mapped = map_file(self._file, offset=0, size=self._size)
        return np.frombuffer(self._mapped, np.float32, count=size, offset=position)

    def close(self) -> None:
        """Let go of them; the disk space goes back with the last use of what was returned."""
        self._deltas.clear()
        self._mapped = None
        if self._file is not None:
            with contextlib.suppress(OSError):  # what the disk did not take is thrown away with the rest
                self._file.close()


def extended(vector: Vector, times: int, folder: Path) -> Vector:
    """Return a model, and zeros for whatever is carried beside it, ``float32 [times * P]``; kept as ``keep`` does.

    Args:
        vector: ``float32 [P]``.
        times: How many vectors of that size there are, the model first.
        folder: Where a large one lies.
    """
    if times == 1:
        return vector
    beside = np.zeros((times - 1) * vector.size, np.float32)
    return keep(itertools.chain(chunks(vector), chunks(beside)), times * vector.size, folder)


def leading(vector: Vector, size: int) -> Vector:
    """Return the first values of a vector, as a view that goes out without a copy where the vector would."""
    if vector.size == size:
        return vector
    base = vector.base
    if isinstance(base, bytes | memoryview) and len(base) == vector.nbytes:
        return np.frombuffer(memoryview(base)[: size * vector.itemsize], vector.dtype)
    return vector[:size]


def finite(following: Iterator[Vector], number: int) -> Iterator[Vector]:
    """Pass the next parameters on, part by part, unless they are none.

    Raises:
        StudyFailed: A value is NaN or infinite.
    """
    for part in following:
        if not is_finite(part):
            raise StudyFailed(
                f"Round {number} would give a model with NaN or infinity: finite updates, too large to add up.",
                advice="Look at the sites' training losses; the checkpoint of the round before is kept.",
            )
        yield part
