"""A real coordinator over loopback TLS, its durable tasks and its study process; sites that answer without a model.

Server memory is the largest ``VmHWM`` of the coordinator's and of the study's process; both count for the goal.
"""

import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
from tests.chaos.members import NAME, PASSPHRASE, Members

from benchmarks import flower_federation
from benchmarks.process import PYTHON, ROOT
from benchmarks.table import print_table, verdict
from hansa_common.plan import parse_plan
from hansa_server.federation.control import Control, PlanRequest, StudyReply, StudyRequest
from hansa_server.federation.database import open_database
from hansa_server.federation.settings import ServerSettings
from hansa_server.federation.studies import Studies
from hansa_server.results import Results

_CLASSES = [str(digit) for digit in range(10)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One study.

    Attributes:
        rounds: Seconds of each, without the first.
        memory: Largest ``VmHWM`` in bytes of the coordinator, then of the study's process.
        resident: RSS in bytes of the coordinator over the study, sampled each second.
        descriptors: Open files of the coordinator, sampled each second.
        bytes: Up and down, all rounds.
        seconds: All rounds.
        completed: How many.
    """

    rounds: tuple[float, ...]
    memory: tuple[int, ...]
    resident: tuple[int, ...]
    descriptors: tuple[int, ...]
    bytes: int
    seconds: float
    completed: int


def measure(*, sites: int, features: int, rounds: int, faults: float = 0.0, seconds: float = 1e9) -> Measured:
    """Run one study with a model of ``10 * (features + 1)`` parameters; stop it after ``seconds``."""
    names = [f"site-{number}" for number in range(sites)]
    with tempfile.TemporaryDirectory() as path:
        usual = ServerSettings.model_fields["heartbeat_seconds"].default
        made = Members(Path(path), names, heartbeat_seconds=usual)
        with _processes(made, faults) as server:
            return _study(made, names, server, features=features, rounds=rounds, seconds=seconds)


@contextmanager
def _processes(made: Members, faults: float) -> Iterator[psutil.Process]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    server = subprocess.Popen(
        [PYTHON, "-m", "hansa_server.federation.process", str(made.folder.path)], stdin=subprocess.PIPE, env=environment
    )
    assert server.stdin is not None
    server.stdin.write(PASSPHRASE + b"\n")
    server.stdin.close()
    peers = subprocess.Popen(
        [PYTHON, "-m", "benchmarks.federation_sites", str(made.path), str(faults)], env=environment, cwd=ROOT
    )
    try:
        while not (made.folder.path / "control.sock").exists():
            time.sleep(0.05)
        yield psutil.Process(server.pid)
    finally:
        peers.kill()
        server.terminate()
        peers.wait()
        server.wait()


def _study(
    made: Members, names: list[str], server: psutil.Process, *, features: int, rounds: int, seconds: float
) -> Measured:
    plan = parse_plan(
        {
            "name": "benchmark",
            "purpose": "To be measured.",
            "model": {"name": "logistic"},
            "data": {"kind": "array", "shape": _shape(features), "classes": _CLASSES},
            "training": {"epochs": 1},
            "rounds": {"count": rounds, "deadline_seconds": 600.0},
        }
    )
    control = Control(made.folder.path)
    row = control.call("Propose", PlanRequest(plan=plan.model_dump_json()), StudyReply)
    _approve(made, row, names)
    resident: list[int] = []
    descriptors: list[int] = []
    memory: dict[int, int] = {}
    deadline = time.monotonic() + seconds
    while row.state in ("proposed", "running"):
        time.sleep(1.0)
        resident.append(server.memory_info().rss)
        descriptors.append(server.num_fds())
        for process in (server, *server.children()):
            memory[process.pid] = max(memory.get(process.pid, 0), _high_water(process.pid))
        if time.monotonic() > deadline:
            control.call("Stop", StudyRequest(study=row.study), StudyReply)
        row = control.call("Begin", StudyRequest(study=row.study), StudyReply)
    control.close()
    run = made.folder.runs / row.study
    if row.state == "failed":
        raise RuntimeError(row.reason + (run / "study.log").read_text())
    results = Results.model_validate_json((run / "metrics.json").read_bytes())
    times = [found.seconds for found in results.rounds]
    return Measured(
        rounds=tuple(times[1:]),
        memory=tuple(memory.values()),
        resident=tuple(resident),
        descriptors=tuple(descriptors),
        bytes=sum(found.bytes_up + found.bytes_down for found in results.rounds),
        seconds=sum(times),
        completed=len(times),
    )


def _approve(made: Members, row: StudyReply, names: list[str]) -> None:
    """Enter the sites' signed answers as the coordinator would have got them."""
    studies = Studies(open_database(made.folder.database))
    for name in names:
        key = made.keys(name).public().signing
        studies.decide(made.approval(name, row), site=name, key=key, federation=NAME)


def _shape(features: int) -> list[int]:
    """Return a shape of this many features, each side as small as a plan wants it."""
    side = next((side for side in range(65_536, 0, -1) if features % side == 0), 1)
    return [side] if side == features else [features // side, side]


def _high_water(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    return 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Setting:
    """One size of federation; stock Flower runs ``nodes`` SuperNodes of it, as many as the machine holds well."""

    label: str
    sites: int
    features: int
    rounds: int
    nodes: int
    stock_rounds: int
    time_goal: float | None = None  # seconds
    memory_goal: float | None = None  # bytes
    rate_goal: float | None = None  # bytes a second


_SETTINGS = (
    _Setting(
        label="4 sites, 122,570 floats", sites=4, features=12_256, rounds=50, nodes=4, stock_rounds=6, time_goal=0.1
    ),
    _Setting(
        label="200 sites, 8 KB",
        sites=200,
        features=204,
        rounds=20,
        nodes=10,
        stock_rounds=5,
        time_goal=1.0,
        memory_goal=300e6,
    ),
    _Setting(label="50 sites, 8 MB", sites=50, features=209_720, rounds=5, nodes=10, stock_rounds=4, memory_goal=300e6),
    _Setting(
        label="4 sites, 200 MB each way",
        sites=4,
        features=4_999_680,
        rounds=3,
        nodes=4,
        stock_rounds=3,
        memory_goal=2 * 200e6 + 200e6,
        rate_goal=200e6,
    ),
)
_STOCK_LIMIT = 400.0  # seconds


def run(repeat: int) -> None:
    """Measure each setting once, Hansa and stock Flower in turn; a federation is built anew for each."""
    del repeat
    rows, goals = [], []
    for setting in _SETTINGS:
        found = measure(sites=setting.sites, features=setting.features, rounds=setting.rounds)
        values = 10 * (setting.features + 1)
        stock = flower_federation.measure(
            sites=setting.nodes, values=values, rounds=setting.stock_rounds, limit=_STOCK_LIMIT
        )
        median, rate = statistics.median(found.rounds), found.bytes / found.seconds
        memory = " + ".join(f"{size / 1e6:.0f}" for size in found.memory) + " MB"
        rows += [
            ["hansa", setting.label, f"{median * 1e3:,.0f} ms", f"{rate / 1e6:,.0f} MB/s", memory],
            ["Flower 1.41", f"the same, {setting.nodes} sites", *_stock_figures(stock)],
        ]
        if setting.time_goal is not None:
            figures = (f"{median * 1e3:,.0f} ms", f"{setting.time_goal * 1e3:,.0f} ms")
            goals.append([setting.label, "median round", *figures, verdict(median <= setting.time_goal)])
        if setting.memory_goal is not None:
            for what, size in (("memory of the coordinator", found.memory[0]), ("and its study", sum(found.memory))):
                figures = (f"{size / 1e6:,.0f} MB", f"{setting.memory_goal / 1e6:,.0f} MB")
                goals.append([setting.label, what, *figures, verdict(size <= setting.memory_goal)])
        if setting.rate_goal is not None:
            figures = (f"{rate / 1e6:,.0f} MB/s", f"{setting.rate_goal / 1e6:,.0f} MB/s")
            goals.append([setting.label, "up and down", *figures, verdict(rate >= setting.rate_goal)])
    print_table(["federation over TLS, loopback", "setting", "median round", "up and down", "server memory"], rows)
    print()
    print_table(["setting", "figure", "found", "goal", ""], goals)


def _stock_figures(stock: flower_federation.Stock) -> list[str]:
    memory = f"{stock.memory / 1e6:,.0f} MB"
    if not stock.rounds:
        return [f"not done in {_STOCK_LIMIT:.0f} s", "", memory]
    median = statistics.median(stock.rounds)
    return [f"{median * 1e3:,.0f} ms", f"{stock.bytes / median / 1e6:,.1f} MB/s", memory]


def soak(repeat: int) -> None:
    """Run at full speed for ten minutes a repetition, one reply in a hundred behind a dropped connection."""
    rows = []
    for _ in range(repeat):
        found = measure(sites=3, features=204, rounds=100_000, faults=0.01, seconds=600.0)
        half = len(found.resident) // 2
        slope = (found.resident[-1] - found.resident[half]) / max(1, found.completed / 2) * 1_000
        rows.append(
            [
                f"{found.completed:,}",
                f"10,000, {verdict(found.completed >= 10_000)}",
                f"{slope / 1e6:+.2f} MB",
                f"1 MB, {verdict(slope < 1e6)}",
                f"{found.descriptors[half]} -> {found.descriptors[-1]}",
            ]
        )
    print_table(
        ["rounds in 10 minutes", "goal", "memory per 1,000 rounds", "goal", "open files, half-way -> end"], rows
    )
