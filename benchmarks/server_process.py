"""Hansa's server and nothing else, with sites that do not train: how much memory and time it takes.

Started as ``python -m benchmarks.server_process SITES ROUNDS OUT SIDE ...``, the sides being the shape of an example;
writes a JSON object to OUT. The model is logistic regression's: ten parameters for each feature, and ten.
"""

import json
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from benchmarks.process import ROOT
from hansa_common.plan import StudyPlan, parse_plan
from hansa_server.app import server_app
from hansa_server.engines.flower_app import run_on
from hansa_server.engines.local import LocalGrid
from hansa_server.outcome import results_of, write_results
from hansa_server.progress import Quiet
from hansa_server.results import RoundResult
from hansa_server.store import RunFolder
from hansa_server.study import Study


class Clock(Quiet):
    """Notes when each round is closed and its checkpoint written."""

    def __init__(self) -> None:
        self.closed: list[float] = []
        self.started = 0.0

    def round_started(self, number: int, sites: tuple[str, ...]) -> None:
        """Note the start of the first round."""
        del sites
        if number == 1:
            self.started = time.monotonic()

    def round_closed(self, result: RoundResult) -> None:
        """Note the end of a round."""
        del result
        self.closed.append(time.monotonic())


def main(sites: int, rounds: int, out: Path, shape: tuple[int, ...]) -> None:
    """Run one study and write what it took."""
    plan, clock = _plan(shape, rounds), Clock()
    before = _memory("VmRSS")
    with tempfile.TemporaryDirectory() as folder:
        run = RunFolder.create(Path(folder))
        study = Study(plan=plan, folder=run, engine="local", observer=clock)
        grid = LocalGrid(client_app="benchmarks.echo_client:app", nodes=sites, folder=ROOT)
        run_on(grid, server_app(study.run, threading.Event()))
        write_results(run, study, results_of(study, run="echo", status="completed", reason=""))
    peak = _memory("VmHWM")
    assert study.parameters is not None
    assert np.array_equal(study.parameters, np.full_like(study.parameters, rounds))
    assert all(len(result.sites) == sites for result in study.rounds)
    figures = {
        "parameters": study.parameters.size,
        "before": before,
        "peak": peak,
        "rounds": np.diff([clock.started, *clock.closed]).tolist(),
        "round_bytes": study.rounds[-1].bytes_up + study.rounds[-1].bytes_down,
    }
    out.write_text(json.dumps(figures))


def _plan(shape: tuple[int, ...], rounds: int) -> StudyPlan:
    return parse_plan(
        {
            "name": "echo",
            "purpose": "To measure the server.",
            "model": {"name": "logistic"},
            "data": {"kind": "array", "shape": shape, "classes": tuple("0123456789")},
            "training": {"epochs": 1},
            "rounds": {"count": rounds},
        }
    )


def _memory(key: str) -> int:
    """Return a figure of this process in bytes, as the kernel counts it (proc_pid_status(5))."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {key}.")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), tuple(map(int, sys.argv[4:])))
