"""What federation costs in accuracy: ten sites with equal mixes of CIFAR-10 against central training.

10,000 training images are divided over the sites, a tenth of each for validation and a tenth for testing. Central
training sees the same examples as often: all sites' training splits in one place, one epoch for each local epoch.
"""

import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file

from benchmarks.process import HANSA
from benchmarks.process import run as run_process
from benchmarks.studies import CIFAR_CLASSES, cifar10_file
from benchmarks.table import print_table, verdict
from hansa_client.data import ADAPTERS, Source
from hansa_client.data.split import Splits
from hansa_client.simulated import site_splits
from hansa_client.training.memory import keep_freed_memory
from hansa_client.training.supervised import SupervisedTraining
from hansa_common.parameters import Vector
from hansa_common.plan import StudyPlan, dump_plan, parse_plan
from hansa_common.seeds import derive_seed
from hansa_server.results import Results

SITES, ROUNDS, EPOCHS = 10, 20, 1
_TRAINING_IMAGES = 10_000  # of the archive; its test images follow


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracies:
    """Shares of right answers on the sites' test splits (1,000 images) and on official test images (2,000)."""

    federated: float
    pooled: float
    local_only: float
    federated_official: float
    central_official: float


def run(repeat: int) -> None:
    """Train with one seed after the other."""
    path = cifar10_file()
    if path is None:
        print("\nSkipped: there is no cifar10/cifar10_10k_2k.npz under HANSA_TEST_DATA.")
        return
    keep_freed_memory()
    torch.set_num_threads(1)
    found = [_study(path, seed) for seed in range(1, repeat + 1)]

    def row(title: str, figures: list[float], *, unit: str = "%", goal: bool = False) -> list[str]:
        mean = 100 * statistics.mean(figures)
        each = ", ".join(f"{100 * figure:.1f}" for figure in figures)
        return [title, f"{mean:.1f} {unit}", each, verdict(mean <= 2.0) if goal else ""]

    print_table(
        [f"{SITES} sites, {ROUNDS} rounds of {EPOCHS} epochs", "mean", "each seed", "goal: at most 2 points"],
        [
            row("federated, sites' test splits", [f.federated for f in found]),
            row("central, sites' test splits", [f.pooled for f in found]),
            row("each site alone, sites' test splits", [f.local_only for f in found]),
            row("central minus federated", [f.pooled - f.federated for f in found], unit="points", goal=True),
            row("federated, official test images", [f.federated_official for f in found]),
            row("central, official test images", [f.central_official for f in found]),
            row(
                "central minus federated",
                [f.central_official - f.federated_official for f in found],
                unit="points",
                goal=True,
            ),
        ],
    )


def _study(path: Path, seed: int) -> Accuracies:
    plan = _plan(path, seed)
    procedure = _whole(plan, path)
    with tempfile.TemporaryDirectory() as folder:
        file, out = Path(folder) / "cifar10.toml", Path(folder) / "run"
        file.write_text(dump_plan(plan))
        run_process([*HANSA, "simulate", str(file), "--baselines", "--out", str(out)])
        results = Results.model_validate_json((out / "metrics.json").read_bytes())
        tensors = load_file(out / "model.safetensors")
    assert results.final is not None
    assert results.baselines is not None
    federated = np.concatenate([tensors[tensor.name].reshape(-1) for tensor in procedure.spec.tensors])
    return Accuracies(
        federated=_number(results.final.weighted_mean.accuracy),
        pooled=_number(results.baselines.pooled.weighted_mean.accuracy),
        local_only=_number(results.baselines.local_only.weighted_mean.accuracy),
        federated_official=_accuracy(procedure, federated),
        central_official=_accuracy(procedure, _central(plan, procedure)),
    )


def _plan(path: Path, seed: int) -> StudyPlan:
    return parse_plan(
        {
            "name": "cifar10-iid",
            "purpose": "To compare federated with central training.",
            "seed": seed,
            "model": {"name": "cnn"},
            "data": {"kind": "image", "channels": 3, "height": 32, "width": 32, "classes": CIFAR_CLASSES},
            "training": {"optimizer": "adam", "learning_rate": 1e-3, "batch_size": 32, "epochs": EPOCHS},
            "rounds": {"count": ROUNDS},
            "evaluation": {"validation": 0.1, "test": 0.1},
            "simulation": {"sites": SITES, "device": "cpu", "data": {"adapter": "cifar10", "path": str(path)}},
        }
    )


def _whole(plan: StudyPlan, path: Path) -> SupervisedTraining:
    """Return all sites' training splits as one site, with the official test images as its test split."""
    dataset = ADAPTERS.find("cifar10")(Source(path=path, options={"split": "all"}), plan.data)
    sites = [site_splits(plan, site) for site in range(SITES)]
    official = np.arange(_TRAINING_IMAGES, len(dataset))
    train = np.concatenate([splits.train for splits in sites])
    splits = Splits(train=train, validation=official[:0], test=official)
    return SupervisedTraining(plan=plan, dataset=dataset, splits=splits, device=torch.device("cpu"))


def _central(plan: StudyPlan, procedure: SupervisedTraining) -> Vector:
    parameters = procedure.initial(derive_seed(plan.seed, "initial"))
    for number in range(1, plan.rounds.count + 1):
        seed = derive_seed(plan.seed, 0, number, "train")
        parameters = parameters + procedure.train(parameters, round_number=number, seed=seed).delta
    return parameters


def _accuracy(procedure: SupervisedTraining, parameters: Vector) -> float:
    counts = procedure.evaluate(parameters, "test")
    return float(np.trace(counts.confusion)) / counts.num_examples


def _number(accuracy: float | None) -> float:
    assert accuracy is not None
    return accuracy
