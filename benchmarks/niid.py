"""CIFAR-10 by NIID-Bench's settings, beside its published table: four partitions, four strategies, LeNet.

Li, Diao, Chen and He, "Federated Learning on Non-IID Data Silos: An Experimental Study", ICDE 2022: SGD with learning
rate .01, momentum .9 and weight decay 1e-5, batches of 64, ten local epochs; 50 rounds of ten sites, or 500 rounds of
ten among 100 sites. Images are mirrored and shifted by up to four pixels. The figure is the accuracy of the last model
on the official test images. All runs are ``hansa simulate``.

What differs from the published runs: partitions and initial weights are drawn by Hansa; each site keeps 1 % of its
images, at least one, for a test of its own; FedProx runs with mu .01 alone, where the best of four was published;
Hansa's SCAFFOLD is the paper's plain SGD, so it takes .1 for the .01 with momentum .9 of the published runs; crops pad
with zeros.

With --out a table that was broken off goes on: finished runs are read, a broken one is resumed.
"""

import json
import tempfile
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from benchmarks import cifar10_data
from benchmarks.cifar10_data import Cifar10
from benchmarks.limits import Limits
from benchmarks.process import HANSA
from benchmarks.process import run as run_process
from benchmarks.table import print_table
from hansa_common.plan import StudyPlan, dump_plan, parse_plan, read_plan

SUBSET_ROUNDS: Final = 5
_SGD: Final = {"optimizer": "sgd", "learning_rate": 0.01, "momentum": 0.9, "weight_decay": 1e-5, "batch_size": 64}


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One row of the published table.

    Attributes:
        partition: As a plan names it.
        sites: How many there are.
        per_round: How many of them take part in a round; all where ``None``.
        rounds: How many there are.
        published: Accuracy in % by strategy.
    """

    partition: str
    sites: int = 10
    per_round: int | None = None
    rounds: int = 50
    published: dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """One column: what stands in ``[aggregation]``, and what it changes in ``[training]``."""

    aggregation: dict[str, Any]
    training: dict[str, Any]


SETTINGS: Final = {
    "dirichlet": Setting(
        partition="dirichlet:0.5", published={"fedavg": 68.2, "fedprox": 67.9, "scaffold": 69.8, "fednova": 66.8}
    ),
    "two-labels": Setting(
        partition="shards:2", published={"fedavg": 49.8, "fedprox": 50.7, "scaffold": 49.1, "fednova": 46.5}
    ),
    "quantity": Setting(
        partition="quantity:0.5", published={"fedavg": 72.0, "fedprox": 71.2, "scaffold": 62.4, "fednova": 10.0}
    ),
    "hundred-sites": Setting(
        partition="dirichlet:0.5",
        sites=100,
        per_round=10,
        rounds=500,
        published={"fedavg": 59.4, "fedprox": 58.8, "scaffold": 10.0, "fednova": 60.0},
    ),
}
METHODS: Final = {
    "fedavg": Method(aggregation={"strategy": "fedavg"}, training={}),
    "fedprox": Method(aggregation={"strategy": "fedprox", "mu": 0.01}, training={}),
    "scaffold": Method(
        aggregation={"strategy": "scaffold", "weights": "examples"},
        training={"momentum": 0.0, "learning_rate": 0.1},  # .01 / (1 - .9)
    ),
    "fednova": Method(aggregation={"strategy": "fednova"}, training={}),
}


def run(repeat: int, limits: Limits) -> None:
    """Print the table, found beside published; ``repeat`` is not looked at, the published runs are single ones too."""
    del repeat
    data = cifar10_data.find()
    if data is None:
        print(f"\nSkipped: {cifar10_data.ABSENT}")
        return
    torch.set_num_threads(1)
    settings, methods = limits.chosen(SETTINGS, METHODS)
    rows = []
    with tempfile.TemporaryDirectory() if limits.out is None else nullcontext(str(limits.out)) as folder:
        for setting in settings:
            rounds = limits.rounds or (SETTINGS[setting].rounds if data.is_whole else SUBSET_ROUNDS)
            row = [f"{setting} ({SETTINGS[setting].partition}), {rounds} rounds"]
            for method in methods:
                plan = plan_of(data, setting, method, rounds=rounds)
                found = accuracy_of(plan, data, Path(folder) / plan.name)
                published = SETTINGS[setting].published[method]
                print(f"{setting}, {method}, {rounds} rounds: {found:.1f} % (published {published})", flush=True)
                row.append(f"{found:.1f} ({published})")
            rows.append(row)
    print_table([f"accuracy in %, {data} (published: all, whole runs)", *methods], rows)


def plan_of(data: Cifar10, setting: str, method: str, *, rounds: int, **simulation: Any) -> StudyPlan:
    """Return the plan of one cell; ``simulation`` changes its section."""
    row, column = SETTINGS[setting], METHODS[method]
    per_round = {} if row.per_round is None else {"sites_per_round": row.per_round}
    return parse_plan(
        {
            "name": f"niid-{setting}-{method}-{rounds}",
            "purpose": "To stand beside the table of NIID-Bench.",
            "seed": 0,
            "model": {"name": "lenet"},
            "data": cifar10_data.CONTRACT,
            "training": _SGD | {"epochs": 10, "augmentation": {"flip": True, "crop": 4}} | column.training,
            "aggregation": column.aggregation,
            "rounds": {"count": rounds, **per_round},
            "evaluation": {"validation": 0.0, "test": 0.01},
            "simulation": {
                "sites": row.sites,
                "partition": row.partition,
                "device": "cpu",
                "data": {"adapter": "cifar10", "path": str(data.path)},
                **simulation,
            },
        }
    )


def accuracy_of(plan: StudyPlan, data: Cifar10, run: Path) -> float:
    """Simulate a plan in a folder, as far as that is not done, and test its model on the official test images.

    Raises:
        RuntimeError: It failed, or the folder holds the run of another plan.
    """
    if not (run / "plan.toml").is_file():
        run.parent.mkdir(parents=True, exist_ok=True)
        file = run.parent / f"{plan.name}.toml"
        file.write_text(dump_plan(plan))
        run_process([*HANSA, "simulate", str(file), "--out", str(run)])
    elif read_plan(run / "plan.toml") != plan:
        raise RuntimeError(f"{run} holds the run of another plan; name another folder with --out.")
    elif not _is_done(run):
        run_process([*HANSA, "simulate", "--resume", str(run)])
    procedure = cifar10_data.official_test(plan, data)
    return cifar10_data.accuracy(procedure, cifar10_data.model_of(run, procedure), "test")


def _is_done(run: Path) -> bool:
    metrics = run / "metrics.json"
    return metrics.is_file() and json.loads(metrics.read_text())["status"] == "completed"
