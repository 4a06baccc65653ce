"""Data and plans of the benchmarks: what Hansa, Flower and the bare loop all work on."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks import cifar10_data
from hansa_client.simulated import divide, site_splits
from hansa_common.plan import StudyPlan, dump_plan, parse_plan

_DIGITS = tuple(str(digit) for digit in range(10))
_NAME = "benchmark"


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One study and its data on disk.

    Attributes:
        plan: The study; ``path`` holds it as TOML.
        path: The study file.
        data: An archive with the examples ``x`` and their labels ``y``.
        splits: An archive with ``train_0``, ``validation_0`` and so on: the positions of each site's examples.
    """

    plan: StudyPlan
    path: Path
    data: Path
    splits: Path


def images(folder: Path, *, sites: int, per_site: int, rounds: int) -> Task:
    """Make the task of the shared CNN: images ``uint8 [N, 32, 32, 3]``, of CIFAR-10 where it is there."""
    count = sites * per_site
    data = cifar10_data.find()
    if data is not None and not data.is_whole and len(labels := np.load(data.path)["y_train"]) >= count:
        x, y = np.load(data.path)["x_train"][:count], labels[:count].astype(np.int64)
    else:
        rng = np.random.default_rng(0)
        x, y = rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8), rng.integers(0, 10, count)
    training = {"optimizer": "adam", "learning_rate": 1e-3, "batch_size": 32, "epochs": 1}
    values = _plan("cnn", cifar10_data.CONTRACT, training, rounds={"count": rounds}, sites=sites)
    return _write(folder, values, x, y)


def vectors(folder: Path, *, sites: int, per_site: int, rounds: int, per_round: int) -> Task:
    """Make the task of logistic regression: ten Gaussian clouds ``float32 [N, 784]``."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 10, sites * per_site)
    x = rng.normal(size=(len(y), 784)).astype(np.float32) + rng.normal(size=(10, 784)).astype(np.float32)[y]
    contract = {"kind": "array", "shape": (784,), "classes": _DIGITS}
    training = {"optimizer": "sgd", "learning_rate": 0.01, "batch_size": 32, "epochs": 1}
    values = _plan("logistic", contract, training, rounds={"count": rounds, "sites_per_round": per_round}, sites=sites)
    return _write(folder, values, x, y)


def _plan(
    model: str, contract: dict[str, Any], training: dict[str, Any], *, rounds: dict[str, int], sites: int
) -> dict[str, Any]:
    return {
        "name": _NAME,
        "purpose": "To measure how fast a study runs.",
        "seed": 1,
        "model": {"name": model},
        "data": contract,
        "training": training,
        "rounds": rounds,
        "evaluation": {"validation": 0.1, "test": 0.1},
        "simulation": {"sites": sites, "device": "cpu", "data": {"adapter": "npz"}},
    }


def _write(folder: Path, values: dict[str, Any], x: npt.NDArray[Any], y: npt.NDArray[np.int64]) -> Task:
    data, splits, path = folder / "data.npz", folder / "splits.npz", folder / f"{_NAME}.toml"
    np.savez(data, x=x, y=y)
    values["simulation"]["data"]["path"] = str(data)
    plan = parse_plan(values)
    path.write_text(dump_plan(plan))
    arrays: dict[str, Any] = {}
    for site in range(len(divide(plan).names)):
        own = site_splits(plan, site)
        arrays |= {f"train_{site}": own.train, f"validation_{site}": own.validation}
    np.savez(splits, **arrays)
    return Task(plan=plan, path=path, data=data, splits=splits)
