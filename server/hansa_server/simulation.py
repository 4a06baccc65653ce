"""A study on one machine (or one Ray cluster): composes plan, run folder, engine and report.

The sites' package is never imported here: a simulation finds its ClientApp and the names of its sites through the
entry points of the group ``hansa.site``.
"""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import FrameType
from typing import Any

from hansa_common.errors import StudyFailed, StudyInterrupted, UsageError
from hansa_common.plan import StudyPlan
from hansa_server.engines.engine import Machine, run
from hansa_server.outcome import Status, results_of, write_results
from hansa_server.progress import Quiet
from hansa_server.results import Results
from hansa_server.store import RunFolder
from hansa_server.strategies import build_strategy
from hansa_server.study import Study


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
    """Run a study on this machine, from its last checkpoint where the folder has one, and write its results.

    Raises:
        StudyFailed: It could not go on or was stopped; what was reached is in the folder all the same.
        UsageError: The plan cannot be simulated, or the engine cannot be used.
        StorageError: The disk is full or fails.
    """
    names = check(plan)
    study = Study(plan=plan, folder=folder, engine=machine.engine, observer=observer, baselines=baselines)
    with _stop_on_signal() as stop:
        start = partial(
            run,
            machine,
            study.run,
            stop,
            client_app=_site_entry("client_app").value,
            nodes=len(names),
            gpus_per_site=plan.simulation.gpus_per_site if plan.simulation else 0.0,
            log=folder.write("workers.log", ""),
        )
        return conduct(study, folder, start)


def conduct(study: Study, folder: RunFolder, start: Callable[[], None]) -> Results:
    """Have ``start`` conduct a study, from its last checkpoint where there is one; write what it reached, in any case.

    Raises:
        StudyFailed: It could not go on or was stopped.
        StorageError: The disk is full or fails.
    """
    checkpoint = folder.load_checkpoint()
    if checkpoint is not None:
        study.restore(checkpoint)
        del checkpoint  # a whole model
    status: Status = "completed"
    problem: StudyFailed | None = None
    try:
        start()
    except StudyInterrupted as error:
        status, problem = "stopped", error
    except StudyFailed as error:
        status, problem = "failed", error
    results = results_of(study, run=str(folder.path), status=status, reason=problem.message if problem else "")
    write_results(folder, study, results)
    if problem is not None:
        raise problem
    return results


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
