"""The systems that are compared, each as a command run to its end on the same task."""

import json
import os
import re
import statistics
import tempfile
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from benchmarks.process import HANSA, PYTHON, Finished, run
from benchmarks.studies import Task
from hansa_server.results import Results

_FLOWER = (PYTHON, "-c", "from benchmarks.flower_quickstart import main; main()")
_ROUND = re.compile(r"round (\d+)/\d+ ")


@dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """One run of one system.

    Attributes:
        finished: The whole process.
        rounds: Seconds of each round, from the start of one to the start of the next.
        training: Of these, until the updates were aggregated; as ``rounds`` where one exchange does both.
    """

    finished: Finished
    rounds: tuple[float, ...]
    training: tuple[float, ...]

    @property
    def steady_round(self) -> float:
        """Median seconds of a round without the first, which loads data and warms up."""
        return statistics.median(self.rounds[1:])

    @property
    def steady_training(self) -> float:
        """The same of ``training``."""
        return statistics.median(self.training[1:])


def hansa(task: Task, *, sample_memory: bool = False) -> Timed:
    """Run ``hansa simulate``; a round's time includes its checkpoint, as seen by who reads its output."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        command = [*HANSA, "simulate", str(task.path), "--out", str(out), "--workers", str(_cores())]
        finished = run(command, sample_memory=sample_memory)
        results = Results.model_validate_json((out / "metrics.json").read_bytes())
    assert all(not result.missing for result in results.rounds)
    closed = [second for second, line in finished.lines if _ROUND.match(line)]
    assert len(closed) == len(results.rounds)
    first = results.rounds[0].seconds
    rounds = (first, *(end - start for start, end in pairwise(closed)))
    return Timed(finished=finished, rounds=rounds, training=rounds)


def flower(task: Task, *, rounds: int, sample_memory: bool = False) -> Timed:
    """Run Flower's simulation."""
    plan = task.plan
    assert plan.simulation is not None
    sites = plan.simulation.sites
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "seconds.json"
        paths = ["--data", str(task.data), "--splits", str(task.splits), "--out", str(out)]
        size = ["--sites", str(sites), "--per-round", str(plan.rounds.sites_per_round or sites)]
        limits = ["--rounds", str(rounds), "--cores", str(_cores())]
        command = [*_FLOWER, "--model", plan.model.name, *paths, *size, *limits]
        finished = run(command, sample_memory=sample_memory)
        seconds = json.loads(out.read_text())
    return Timed(finished=finished, rounds=tuple(seconds["rounds"]), training=tuple(seconds["training"]))


def bare_loop(task: Task, *, sample_memory: bool = False) -> Timed:
    """Run the training without a framework."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "seconds.json"
        command = [PYTHON, "-m", "benchmarks.bare_loop", str(task.path), str(_cores()), str(out)]
        finished = run(command, sample_memory=sample_memory)
        rounds = tuple(json.loads(out.read_text())["rounds"])
    return Timed(finished=finished, rounds=rounds, training=rounds)


def _cores() -> int:
    return len(os.sched_getaffinity(0))
