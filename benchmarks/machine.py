"""The machine that a figure belongs to."""

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import psutil

_PACKAGES = ("flwr", "ray", "torch", "numpy")


def use_cores(count: int) -> None:
    """Let this process and all that it starts run on the first ``count`` of its cores."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])


def describe() -> str:
    """Return date, machine, versions and what else it was doing."""
    cores, memory = len(os.sched_getaffinity(0)), psutil.virtual_memory().total / 2**30
    packages = ", ".join(f"{name} {version(name)}" for name in _PACKAGES)
    return (
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC; {cores} cores of {_processor()}, {memory:.0f} GiB; Python "
        f"{platform.python_version()}, {packages}; load average before: {os.getloadavg()[0]:.2f}"
    )


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
