"""Memory of a training process: what to say when it runs out, and how to keep what was freed."""

import ctypes
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from hansa_common.errors import TrainingOutOfMemory

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h of glibc
_LARGEST_MMAP_THRESHOLD = 32 << 20  # bytes; mallopt(3): DEFAULT_MMAP_THRESHOLD_MAX on 64-bit systems
_KEPT = 512 << 20  # bytes at the top of the heap that stay with the process
_EXHAUSTED = re.compile(r"not enough memory|can't allocate memory|out of memory", re.IGNORECASE)


def keep_freed_memory() -> bool:
    """Let malloc keep up to 512 MiB that the process frees; call it once, where a training process starts.

    A step allocates and frees a few MiB for each activation. By default glibc gives them back to the kernel and each
    step pays for the page faults again: a tenth of a training step of the shared CNN on one core in float32, and a
    third of its evaluation.

    Returns:
        Whether it took effect; on systems without glibc nothing is changed.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)) and bool(mallopt(_M_TRIM_THRESHOLD, _KEPT))


@contextmanager
def exhaustion_named(doing: str, *, advice: str) -> Iterator[None]:
    """Turn every way in which PyTorch reports exhausted memory into one error.

    Args:
        doing: What needed the memory, for the message: ``training with batches of 32``.
        advice: What to do about it.

    Raises:
        TrainingOutOfMemory: The block ran out of memory; every other exception passes.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise TrainingOutOfMemory(f"There is too little memory for {doing}.", advice=advice) from error
    except RuntimeError as error:
        # PyTorch's CPU allocator raises a plain RuntimeError.
        if not _EXHAUSTED.search(str(error)):
            raise
        raise TrainingOutOfMemory(f"There is too little memory for {doing}.", advice=advice) from error
