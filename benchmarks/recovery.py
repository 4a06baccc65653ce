"""How long a study stands still when a process dies: SIGKILL at a random moment, started again at once.

A real coordinator and two sites with their agents and workers, a study with next to nothing to train. Counted is from
the death until a round that began after it is closed, so a whole round is part of each figure.
"""

import random
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import psutil
from tests.chaos.federation import Federation
from tests.chaos.processes import Process

from benchmarks.table import print_table, verdict
from hansa_common.plan import dump_plan, parse_plan
from hansa_server.federation.events import EventReader

_GOAL = 3.0  # seconds, 99th percentile
_LOOK = 0.005  # seconds
_PATIENCE = 60.0  # seconds
_EACH = 10  # kills of each process for one repetition


def run(repeat: int) -> None:
    """Kill each of the four processes in turn, ``10 * repeat`` times."""
    rng = random.Random(7)
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder, Federation(Path(folder), ("site-1", "site-2")) as federation:
        study = federation.propose(_write_plan(Path(folder)))
        federation.approve(study)
        progress = _Progress(federation.run_folder(study))
        progress.wait_for_round()
        calm = [progress.wait_for_round() for _ in range(20)]
        for _ in range(_EACH * repeat):
            for name, kill in _kills(federation).items():
                time.sleep(rng.uniform(0.0, 0.5))
                started = time.monotonic()
                kill()
                progress.wait_for_round()
                found.setdefault(name, []).append(time.monotonic() - started)
    rows = [["(nothing dies)", str(len(calm)), *_seconds(calm), ""]]
    every = [seconds for values in found.values() for seconds in values]
    for name, values in {**found, "all": every}.items():
        rows.append([name, str(len(values)), *_seconds(values), verdict(_percentile(values) <= _GOAL)])
    header = ["killed", "times", "median", "99th percentile", "longest", f"goal: {_GOAL:g} s"]
    print_table(header, rows)


class _Progress:
    """Follows a study's rounds."""

    def __init__(self, run: Path) -> None:
        self._reader = EventReader(run)

    def wait_for_round(self) -> float:
        """Return after a round that begins from now on is closed, with the seconds since the call."""
        for _event in self._reader.new():
            pass
        began, deadline, has_begun = time.monotonic(), time.monotonic() + _PATIENCE, False
        while time.monotonic() < deadline:
            for event in self._reader.new():
                has_begun |= event["event"] == "round_started"
                if has_begun and event["event"] == "round_closed":
                    return time.monotonic() - began
            time.sleep(_LOOK)
        raise RuntimeError(f"No round was closed in {_PATIENCE:.0f} s.")


def _kills(federation: Federation) -> dict[str, Callable[[], None]]:
    site = federation.sites["site-1"]

    def coordinator() -> None:
        federation.server.kill()
        federation.server.start()

    def agent() -> None:
        site.agent.kill()
        site.agent.start()

    def child_of(process: Process) -> None:
        for child in psutil.Process(process.pid).children():
            child.kill()

    return {
        "coordinator": coordinator,
        "the study's process": partial(child_of, federation.server),
        "a site's agent": agent,
        "a site's worker": partial(child_of, site.agent),
    }


def _seconds(values: list[float]) -> list[str]:
    return [f"{value:.2f} s" for value in (statistics.median(values), _percentile(values), max(values))]


def _percentile(values: list[float]) -> float:
    """Return the 99th percentile: the smallest value that at least 99 % are not above."""
    ordered = sorted(values)
    return ordered[-(-99 * len(ordered) // 100) - 1]


def _write_plan(folder: Path) -> Path:
    plan = parse_plan(
        {
            "name": "recovery",
            "purpose": "To be interrupted.",
            "model": {"name": "logistic"},
            "data": {"kind": "array", "shape": [64], "classes": [str(digit) for digit in range(10)]},
            "training": {"steps": 1},
            "rounds": {"count": 100_000, "deadline_seconds": 60.0},
        }
    )
    path = folder / "recovery.toml"
    path.write_text(dump_plan(plan))
    return path
