"""Runs variants with seeds, one after another, each in a run folder of its own; what is done is not run again.

    OUT/runs/<seed>/<variant>/   one run, as ``hansa simulate`` leaves it

A killed command goes on where it was: a finished run is read back, a started one resumes from its checkpoint. A seed's
runs come before the next seed's, so that what there is at any moment can be compared.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from hansa_common.canonical import digest
from hansa_common.errors import StudyFailed, StudyInterrupted, UsageError
from hansa_common.plan import StudyPlan
from hansa_server.engines.engine import Machine
from hansa_server.progress import Quiet
from hansa_server.results import Results
from hansa_server.simulation import check, simulate
from hansa_server.store import RunFolder
from hansa_server.trials.variants import Variant, with_seed


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One variant with one seed.

    Attributes:
        variant: Its name.
        seed: Of partition, splits, initial weights and training.
        folder: Where it lies.
        results: What it reached; ``status`` says whether it came to its end.
        is_new: Whether it ran now.
    """

    variant: str
    seed: int
    folder: Path
    results: Results
    is_new: bool


Tell = Callable[[Run, int, int], None]
"""Told of each run with its number and how many there are."""


def run_all(
    variants: Sequence[Variant], seeds: Sequence[int], out: Path, *, machine: Machine, tell: Tell
) -> tuple[Run, ...]:
    """Run every variant with every seed, as far as they are not done yet.

    A run that fails (training that diverges, for one) is one of the results, and tried again by the next command.

    Args:
        variants: On one split.
        seeds: Distinct.
        out: The folder of all runs.
        machine: Where they run.
        tell: Told of each run as it is there.

    Raises:
        UsageError: A plan cannot be simulated, or ``out`` holds another plan's run under the same name.
        StudyInterrupted: The operator stopped it.
        StorageError: The disk is full or fails.
    """
    for variant in variants:
        check(variant.plan)
    runs: list[Run] = []
    for seed in seeds:
        for variant in variants:
            runs.append(_run(variant, seed, out, machine))
            tell(runs[-1], len(runs), len(seeds) * len(variants))
    return tuple(runs)


def _run(variant: Variant, seed: int, out: Path, machine: Machine) -> Run:
    plan, path = with_seed(variant.plan, seed), out / "runs" / str(seed) / _folder_name(variant.name)
    done = _finished(plan, path)
    if done is not None:
        return Run(variant=variant.name, seed=seed, folder=path, results=done, is_new=False)
    folder = _open(plan, path)
    try:
        results = simulate(plan, folder, machine=machine, observer=Quiet())
    except StudyInterrupted as error:
        raise StudyInterrupted(error.message, advice="The same command goes on from here.") from None
    except StudyFailed:
        failed = _read(path)
        if failed is None:
            raise
        results = failed
    finally:
        folder.close()
    return Run(variant=variant.name, seed=seed, folder=path, results=results, is_new=True)


def _finished(plan: StudyPlan, path: Path) -> Results | None:
    """Return the results of this very plan where it has come to its end.

    Raises:
        UsageError: The folder holds another plan's run.
    """
    if not (path / "plan.toml").is_file():
        return None
    if RunFolder(path).load_plan() != plan:
        raise UsageError(
            f"{path} holds a run of another plan.", advice="Name another folder with --out, or remove this one."
        )
    results = _read(path)
    return results if results is not None and results.status == "completed" else None


def _read(path: Path) -> Results | None:
    """Return the results of a run; ``None`` where there are none, or of another version."""
    try:
        return Results.model_validate_json((path / "metrics.json").read_bytes())
    except (OSError, ValidationError):
        return None


def _open(plan: StudyPlan, path: Path) -> RunFolder:
    if (path / "plan.toml").is_file():
        return RunFolder.open(path)
    folder = RunFolder.create(path)
    folder.save_plan(plan)
    return folder


def _folder_name(name: str) -> str:
    """Return a name for a folder: readable, and no other variant's."""
    readable = re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-.")[:60]
    return readable if readable == name else f"{readable or 'plan'}-{digest(name)[:6]}"
