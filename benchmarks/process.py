"""Runs a command to its end: how long it took, what it printed when, and how much memory it and its children had."""

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import psutil

ROOT = Path(__file__).parents[1]
PYTHON = sys.executable
HANSA = (PYTHON, "-c", "from hansa_common.cli import main; main()")
_EVERY = 0.05  # seconds between two samples of memory


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """One command that ended well.

    Attributes:
        seconds: From its start to its end.
        lines: What it printed, each line with the seconds since its start.
        peak_pss: Largest sum over its process tree of memory in bytes, pages that processes share counted once.
        peak_rss: The same with shared pages counted for each process.
    """

    seconds: float
    lines: tuple[tuple[float, str], ...]
    peak_pss: int = 0
    peak_rss: int = 0


def run(command: Sequence[str], *, sample_memory: bool = False) -> Finished:
    """Run a command with stdout read here and stderr shown only if it fails.

    Sampling costs a part of a core: measure times without it.

    Raises:
        RuntimeError: It failed.
    """
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "FLWR_TELEMETRY_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }
    started = time.monotonic()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, cwd=ROOT
    ) as process:
        assert process.stdout is not None
        with _MemorySampler(process.pid) if sample_memory else contextlib.nullcontext() as sampler:
            lines = tuple((time.monotonic() - started, line.rstrip("\n")) for line in process.stdout)
            code = process.wait()
            seconds = time.monotonic() - started
    if code:
        raise RuntimeError(f"{' '.join(command)} ended with {code}:\n" + "\n".join(line for _, line in lines))
    return Finished(
        seconds=seconds,
        lines=lines,
        peak_pss=sampler.peak_pss if sampler else 0,
        peak_rss=sampler.peak_rss if sampler else 0,
    )


class _MemorySampler:
    """Reads the memory of a process and its descendants from ``/proc`` while the block runs."""

    def __init__(self, pid: int) -> None:
        self.peak_pss = 0
        self.peak_rss = 0
        self._root = psutil.Process(pid)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(_EVERY):
            pss = rss = 0
            with contextlib.suppress(psutil.NoSuchProcess):
                for process in (self._root, *self._root.children(recursive=True)):
                    with contextlib.suppress(psutil.Error):
                        memory = process.memory_full_info()
                        pss, rss = pss + memory.pss, rss + memory.rss
            self.peak_pss, self.peak_rss = max(self.peak_pss, pss), max(self.peak_rss, rss)
