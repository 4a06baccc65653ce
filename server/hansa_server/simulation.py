"""A study on one machine (or one Ray cluster): composes plan, run folder, engine and report.

The sites' package is never imported here: a simulation finds its ClientApp and the names of its sites through the
entry points of the group ``hansa.site``.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from hansa_common.errors import UsageError
from hansa_common.leakage import Leakage, Picture
from hansa_common.plan import StudyPlan
from hansa_server.conduct import conduct, stop_on_signal
from hansa_server.engines.engine import Machine, run, run_inline
from hansa_server.engines.inline import Site
from hansa_server.left_out import taking_part
from hansa_server.progress import Quiet
from hansa_server.results import Results
from hansa_server.store import RunFolder
from hansa_server.strategies import build_strategy
from hansa_server.study import Study


def check(plan: StudyPlan) -> tuple[str, ...]:
    """Return the names of the simulated sites once the plan can be run here: its parts exist and fit the data.

    Raises:
        PlanError: The plan names a strategy, or an option of it, that does not exist.
        UsageError: The plan has no ``[simulation]``, names no data adapter, its data cannot be divided so, or it
            leaves out a site that there is not.
        DataError: The data has to be read to know the sites, and cannot be.
    """
    if plan.simulation is None:
        raise UsageError("The plan has no [simulation]: it does not say which data the sites have.")
    strategy = build_strategy(plan.aggregation, plan.training)
    names: tuple[str, ...] = _site_entry("count_sites").load()(plan)
    strategy.require(taking_part(plan, names))
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
    study = Study(
        plan=plan,
        folder=folder,
        engine=machine.engine,
        observer=observer,
        names=taking_part(plan, names),
        baselines=baselines,
    )
    with stop_on_signal() as stop:
        start = (
            partial(run_inline, study.run, stop, inline_sites(len(names)))
            if machine.engine == "inline"
            else partial(
                run,
                machine,
                study.run,
                stop,
                client_app=_site_entry("client_app").value,
                nodes=len(names),
                gpus_per_site=plan.simulation.gpus_per_site if plan.simulation else 0.0,
                log=folder.write("workers.log", ""),
            )
        )
        return conduct(study, folder, start)


def inline_sites(count: int) -> dict[int, Site]:
    """Return simulated sites of this process by node, the first at node 1; none has opened a study.

    Raises:
        UsageError: The sites' package is not installed.
    """
    open_site = _site_entry("inline_site").load()
    return {index + 1: open_site(index) for index in range(count)}


def measure_leaks(
    plan: StudyPlan, *, rounds: int | None, tell: Callable[[str, float], None]
) -> tuple[Leakage, Sequence[Picture]]:
    """Attack the updates of a study's simulated sites, without protection and with it.

    Args:
        plan: With ``[simulation]``.
        rounds: How many of its rounds to run; all where ``None``.
        tell: Told what is being done and which share of it is done.

    Raises:
        UsageError: The study cannot be audited.
        HansaError: Its data cannot be read, or its training failed.
    """
    check(plan)
    found: tuple[Leakage, Sequence[Picture]] = _site_entry("measure_leaks").load()(plan, rounds=rounds, tell=tell)
    return found


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
