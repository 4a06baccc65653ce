"""glibc's heap: without bounds, each thread of gRPC keeps what its busiest moment needed."""

import contextlib
import ctypes
from typing import Final

_ARENAS: Final = (-8, 2)  # M_ARENA_MAX
_MMAP_FROM: Final = (-3, 1 << 20)  # M_MMAP_THRESHOLD in bytes: vectors go back to the system when they are freed


def keep_small() -> None:
    """Have freed memory go back to the system; call it before threads are started. Nothing happens without glibc."""
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        for parameter, value in (_ARENAS, _MMAP_FROM):
            libc.mallopt(parameter, value)
