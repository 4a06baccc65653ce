"""What federation costs in accuracy on CIFAR-10: ten sites against central training, the shared CNN.

All of CIFAR-10 where it is there: 10 rounds of one local epoch, about the 500,000 samples of the TensorFlow tutorial's
ten epochs, sites with equal mixes and with label skew (Dirichlet .5); each site keeps 1 % for a test of its own, and
the goals are of the 10,000 official test images. Of the subset, where only that is there, 10,000 training images are
divided, a tenth of each site's for validation and a tenth for testing, in 60 rounds.

Central training sees the same examples as often: all sites' training splits in one place, one epoch for each round, by
the procedure and with the initial weights of the sites.
"""

import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch

from benchmarks import cifar10_data
from benchmarks.cifar10_data import Cifar10, accuracy, model_of
from benchmarks.limits import Limits
from benchmarks.process import HANSA
from benchmarks.process import run as run_process
from benchmarks.table import print_table, verdict
from hansa_client.data import ADAPTERS, Source
from hansa_client.data.split import Splits
from hansa_client.simulated import divide, site_splits
from hansa_client.training.memory import keep_freed_memory
from hansa_client.training.procedure import Split
from hansa_client.training.supervised import SupervisedTraining
from hansa_common.plan import StudyPlan, dump_plan, parse_plan
from hansa_common.seeds import derive_seed

SITES, EPOCHS = 10, 1
PARTITIONS: Final = {"iid": "iid", "dirichlet": "dirichlet:0.5"}
_ROUNDS: Final = {True: 10, False: 60}  # of the whole set, of the subset
_GOALS: Final = {"central": 71.0, "iid": 70.0, "dirichlet": 66.0}  # of the whole set
# What ``_together`` calls its splits.
_SITES_TEST: Split = "validation"
_OFFICIAL_TEST: Split = "test"


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracies:
    """Percentages of right answers on one set of test images.

    Attributes:
        federated: After the last round.
        central: After as many epochs.
        central_best: After the best of these epochs, chosen on these very images: a bound, not a result.
    """

    federated: float
    central: float
    central_best: float


def run(repeat: int, limits: Limits) -> None:
    """Train with one seed after the other."""
    data = cifar10_data.find()
    if data is None:
        print(f"\nSkipped: {cifar10_data.ABSENT}")
        return
    keep_freed_memory()
    torch.set_num_threads(1)
    partitions, _strategies = limits.chosen(PARTITIONS, ["fedavg"])
    rounds = limits.rounds or _ROUNDS[data.is_whole]
    for partition in partitions:
        found = [_study(data, partition, rounds, seed) for seed in range(1, repeat + 1)]
        title = f"accuracy in %, {data}, {SITES} sites, {partition}, {rounds} rounds"
        print_table([title, "mean", "each seed", "goal", ""], _rows(data, partition, found))


def _rows(data: Cifar10, partition: str, found: list[dict[Split, Accuracies]]) -> list[list[str]]:
    """Return the rows of one partition; goals are of whole runs of the set that they were set for."""
    rows = []
    for split, on in ((_SITES_TEST, "test images of the sites"), (_OFFICIAL_TEST, "official test images")):
        figures = [accuracies[split] for accuracies in found]
        has_goals = data.is_whole and split == _OFFICIAL_TEST
        is_close = partition == "iid" and not data.is_whole
        rows += [
            _row(f"federated, {on}", [f.federated for f in figures], least=_GOALS[partition] if has_goals else None),
            _row(f"central, {on}", [f.central for f in figures], least=_GOALS["central"] if has_goals else None),
            _row("central minus federated", [f.central - f.federated for f in figures], most=2.0 if is_close else None),
            _row(f"best epoch of central, {on}", [f.central_best for f in figures]),
        ]
    return rows


def _row(title: str, figures: list[float], *, least: float | None = None, most: float | None = None) -> list[str]:
    mean, each = statistics.mean(figures), ", ".join(f"{figure:.1f}" for figure in figures)
    goal = f"at least {least:g}" if least is not None else f"at most {most:g}" if most is not None else ""
    is_met = (least is None or mean >= least) and (most is None or mean <= most)
    return [title, f"{mean:.1f}", each, goal, verdict(is_met) if goal else ""]


def _study(data: Cifar10, partition: str, rounds: int, seed: int) -> dict[Split, Accuracies]:
    plan = plan_of(data, partition, rounds=rounds, seed=seed)
    procedure = _together(plan, data)
    with tempfile.TemporaryDirectory() as folder:
        file, out = Path(folder) / "cifar10.toml", Path(folder) / "run"
        file.write_text(dump_plan(plan))
        run_process([*HANSA, "simulate", str(file), "--out", str(out)])
        federated = model_of(out, procedure)
    epochs = _central(plan, procedure)
    return {
        split: Accuracies(
            federated=accuracy(procedure, federated, split),
            central=epochs[-1][split],
            central_best=max(epoch[split] for epoch in epochs),
        )
        for split in (_SITES_TEST, _OFFICIAL_TEST)
    }


def plan_of(data: Cifar10, partition: str, *, rounds: int, seed: int) -> StudyPlan:
    """Return the plan of one partition."""
    shares = {"validation": 0.0, "test": 0.01} if data.is_whole else {"validation": 0.1, "test": 0.1}
    return parse_plan(
        {
            "name": f"cifar10-{partition}",
            "purpose": "To compare federated with central training.",
            "seed": seed,
            "model": {"name": "cnn"},
            "data": cifar10_data.CONTRACT,
            "training": {"optimizer": "adam", "learning_rate": 1e-3, "batch_size": 32, "epochs": EPOCHS},
            "rounds": {"count": rounds},
            "evaluation": shares,
            "simulation": {
                "sites": SITES,
                "partition": PARTITIONS[partition],
                "device": "cpu",
                "data": {"adapter": "cifar10", "path": str(data.path)},
            },
        }
    )


def _together(plan: StudyPlan, data: Cifar10) -> SupervisedTraining:
    """Return all sites' training splits as one site, which tests on the sites' test splits and on official images."""
    dataset = ADAPTERS.find("cifar10")(Source(path=data.path, options={"split": "all"}), plan.data)
    training_images = len(divide(plan).dataset)  # of the official test images, which follow, no site has one
    sites = [site_splits(plan, site) for site in range(SITES)]
    splits = Splits(
        train=np.concatenate([splits.train for splits in sites]),
        validation=np.concatenate([splits.test for splits in sites]),
        test=np.arange(training_images, len(dataset)),
    )
    return SupervisedTraining(plan=plan, dataset=dataset, splits=splits, device=torch.device("cpu"))


def _central(plan: StudyPlan, procedure: SupervisedTraining) -> list[dict[Split, float]]:
    """Return the accuracies after each epoch."""
    parameters = procedure.initial(derive_seed(plan.seed, "initial"))
    epochs = []
    for number in range(1, plan.rounds.count + 1):
        seed = derive_seed(plan.seed, 0, number, "train")
        parameters = parameters + procedure.train(parameters, round_number=number, seed=seed).delta
        epochs.append({split: accuracy(procedure, parameters, split) for split in (_SITES_TEST, _OFFICIAL_TEST)})
    return epochs
