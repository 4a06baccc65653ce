"""Parts of a file as arrays, whose pages go back once they are read: a model in use need not be in memory as a whole.

A mapped page counts as this process's memory from the first look at it until it is given back; the kernel keeps it in
its cache for as long as there is room. The file must not be cut short while it is mapped (SIGBUS); to unlink it is
fine. A mapping holds one descriptor.
"""

import mmap
from typing import IO, Any

import numpy as np
import numpy.typing as npt


def map_file(file: IO[bytes], *, offset: int, size: int) -> memoryview:
    """Return ``size`` bytes of a file from ``offset`` on, read only; the file may be closed afterwards.

    Raises:
        ValueError: The file is shorter.
        OSError: It cannot be mapped.
    """
    if not size:
        return memoryview(b"")
    return memoryview(mmap.mmap(file.fileno(), offset + size, access=mmap.ACCESS_READ))[offset:]


def is_mapped(values: npt.NDArray[Any]) -> bool:
    """Tell whether an array is a view of a mapped file."""
    return _mapping(values) is not None


def give_back(values: npt.NDArray[Any]) -> None:
    """Give the pages of a contiguous view of a mapped file back; they can be read again. Nothing happens to others."""
    if (mapping := _mapping(values)) is not None and values.nbytes:
        start = _address(values) - _address(np.frombuffer(mapping, np.uint8))
        first = start - start % mmap.PAGESIZE
        mapping.madvise(mmap.MADV_DONTNEED, first, start + values.nbytes - first)


def _mapping(values: npt.NDArray[Any]) -> mmap.mmap | None:
    base: object = values
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, memoryview):
        base = base.obj
    return base if isinstance(base, mmap.mmap) else None


def _address(values: npt.NDArray[Any]) -> int:
    return int(values.__array_interface__["data"][0])
