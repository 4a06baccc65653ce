"""A study on one machine (or one Ray cluster): composes plan, run folder, engine and report.

The sites' package is never imported here: a simulation finds its ClientApp and the names of its sites through the
entry points of the group ``hansa.site``.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import FrameType
from typing import Any, Literal

from hansa_common.errors import HansaError, StudyFailed, StudyInterrupted, UsageError
from hansa_common.plan import StudyPlan
from hansa_server.app import server_app
from hansa_server.engines import ray
from hansa_server.engines.flower_app import run_on
from hansa_server.engines.local import LocalGrid
from hansa_server.outcome import Status, results_of, write_results
from hansa_server.progress import Quiet
from hansa_server.results import Results
from hansa_server.store import RunFolder
from hansa_server.strategies import build_strategy
from hansa_server.study import Study

Engine = Literal["local", "ray"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Where a simulation runs.

    Attributes:
        engine: What carries the messages.
        workers: How many sites at a time; one for each core where it is ``None``.
        ray_address: Of an existing Ray cluster.
    """

    engine: Engine = "local"
    workers: int | None = None
    ray_address: str | None = None


def check(plan: StudyPlan) -> tuple[str, ...]:
    """Return the names of the simulated sites once the plan can be run here: its parts exist and fit the data.

    Raises:
        PlanError: The plan names a strategy, or an option of it, that does not exist.
        UsageError: The plan has no ``[simulation]``, names no data adapter, or its data cannot be divided so.
        DataError: The data has to be read to know the sites, and cannot be.
    """
    if plan.simulation is None:
        raise UsageError("The plan has no [simulation]: it does not say which data the sites have.")
    build_strategy(plan.aggregation)
    names: tuple[str, ...] = _site_entry("count_sites").load()(plan)
    return names


def new_folder(plan: StudyPlan, out: Path | None) -> RunFolder:
    """Make the folder of a new run: ``out``, or ``runs/<study>-<UTC time>``.

    Raises:
        UsageError: ``out`` has something in it already.
    """
    if out is not None:
        return RunFolder.create(out)
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    path, number = Path("runs") / f"{plan.name}-{stamp}", 1
    while path.exists():
        number += 1
        path = Path("runs") / f"{plan.name}-{stamp}-{number}"
    return RunFolder.create(path)


def simulate(
    plan: StudyPlan, folder: RunFolder, *, machine: Machine, observer: Quiet, baselines: bool = False
) -> Results:
    """Run a study, from its last checkpoint where the folder has one, and write its results.

    Raises:
        StudyFailed: It could not go on or was stopped; what was reached is in the folder all the same.
        UsageError: The plan has no ``[simulation]``, or the engine cannot be used.
        StorageError: The disk is full or fails.
    """
    names = check(plan)
    study = Study(plan=plan, folder=folder, engine=machine.engine, observer=observer, baselines=baselines)
    checkpoint = folder.load_checkpoint()
    if checkpoint is not None:
        study.restore(checkpoint)
    status: Status = "completed"
    problem: HansaError | None = None
    with _stop_on_signal() as stop:
        try:
            _run(study, names, folder, machine, stop)
        except StudyInterrupted as error:
            status, problem = "stopped", error
        except StudyFailed as error:
            status, problem = "failed", error
        finally:
            observer.close()
    results = results_of(study, run=str(folder.path), status=status, reason=problem.message if problem else "")
    write_results(folder, study, results)
    if problem is not None:
        raise problem
    return results


def _run(study: Study, names: tuple[str, ...], folder: RunFolder, machine: Machine, stop: threading.Event) -> None:
    client_app = _site_entry("client_app").value
    app = server_app(study.run, stop, nodes=len(names))
    if machine.engine == "ray":
        assert study.plan.simulation is not None
        ray.run(
            app,
            client_app=client_app,
            nodes=len(names),
            address=machine.ray_address,
            workers=machine.workers,
            gpus_per_site=study.plan.simulation.gpus_per_site,
        )
        return
    grid = LocalGrid(client_app=client_app, nodes=len(names), workers=machine.workers, log=folder.path / "workers.log")
    run_on(grid, app)


def _site_entry(name: str) -> EntryPoint:
    """Find something of the sites' package by name.

    Raises:
        UsageError: The package is not installed.
    """
    for entry in entry_points(group="hansa.site", name=name):
        return entry
    raise UsageError(
        "A simulation needs the sites' part of Hansa.", advice="Install it with: pip install 'hansa[simulation]'."
    )


@contextmanager
def _stop_on_signal() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C or SIGTERM into a request to stop; the second ends the process as usual."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before: dict[signal.Signals, Any] = {}

    def request(_number: int, _frame: FrameType | None) -> None:
        stop.set()
        _restore(before)

    for number in (signal.SIGINT, signal.SIGTERM):
        before[number] = signal.signal(number, request)
    try:
        yield stop
    finally:
        _restore(before)


def _restore(handlers: dict[signal.Signals, Any]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)
