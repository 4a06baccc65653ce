"""Freed memory goes back to the system, so the largest moment is not kept for ever."""

import platform
import subprocess
import sys

import pytest

_SCRIPT = """
import sys
import numpy as np
if sys.argv[1] == "bounded":
    from hansa_common.heap import keep_small
    keep_small()
def resident():
    return next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith("VmRSS"))
np.ones(1 << 18)  # glibc raises its own bound when such an array is freed
before = resident()
arrays = [np.ones(1 << 18) for _ in range(64)]  # 2 MiB each
last = arrays.pop()
arrays.clear()
print(resident() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library than glibc")
def test_a_vector_that_was_freed_is_not_resident() -> None:
    def left(bound: str) -> int:
        return int(subprocess.check_output([sys.executable, "-c", _SCRIPT, bound], text=True))

    assert left("bounded") < 8 << 20
    assert left("unbounded") > 64 << 20
