"""What federation costs in accuracy: ten sites with equal mixes of CIFAR-10 against central training.

10,000 training images are divided over the sites, a tenth of each for validation and a tenth for testing. Central
training sees the same 8,000 examples as often: all sites' training splits in one place, one epoch for each round, by
the procedure and with the initial weights of the sites.
"""

import statistics
import tempfile
from collections.abc import Callable
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
from hansa_client.training.procedure import Split
from hansa_client.training.supervised import SupervisedTraining
from hansa_common.metrics import of_classes
from hansa_common.parameters import Vector
from hansa_common.plan import StudyPlan, dump_plan, parse_plan
from hansa_common.seeds import derive_seed

SITES, ROUNDS, EPOCHS = 10, 60, 1
_TRAINING_IMAGES = 10_000  # of the archive; its test images follow
# What ``_whole`` calls its splits.
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


def run(repeat: int) -> None:
    """Train with one seed after the other."""
    path = cifar10_file()
    if path is None:
        print("\nSkipped: there is no cifar10/cifar10_10k_2k.npz under HANSA_TEST_DATA.")
        return
    keep_freed_memory()
    torch.set_num_threads(1)
    found = [_study(path, seed) for seed in range(1, repeat + 1)]

    def row(title: str, figures: list[float], *, goal: bool = False) -> list[str]:
        mean, each = statistics.mean(figures), ", ".join(f"{figure:.1f}" for figure in figures)
        return [title, f"{mean:.1f}", each, verdict(mean <= 2.0) if goal else ""]

    def rows(on: str, of: Callable[[dict[Split, Accuracies]], Accuracies]) -> list[list[str]]:
        figures = [of(accuracies) for accuracies in found]
        return [
            row(f"federated, {on}", [f.federated for f in figures]),
            row(f"central, {on}", [f.central for f in figures]),
            row("central minus federated", [f.central - f.federated for f in figures], goal=True),
            row(f"best epoch of central, {on}", [f.central_best for f in figures]),
        ]

    print_table(
        [f"accuracy in %, {SITES} sites, {ROUNDS} rounds", "mean", "each seed", "goal: at most 2 points"],
        [
            *rows("1,000 test images of the sites", lambda accuracies: accuracies[_SITES_TEST]),
            *rows("2,000 official test images", lambda accuracies: accuracies[_OFFICIAL_TEST]),
        ],
    )


def _study(path: Path, seed: int) -> dict[Split, Accuracies]:
    plan = _plan(path, seed)
    procedure = _whole(plan, path)
    with tempfile.TemporaryDirectory() as folder:
        file, out = Path(folder) / "cifar10.toml", Path(folder) / "run"
        file.write_text(dump_plan(plan))
        run_process([*HANSA, "simulate", str(file), "--out", str(out)])
        tensors = load_file(out / "model.safetensors")
    federated: Vector = np.concatenate([tensors[tensor.name].reshape(-1) for tensor in procedure.spec.tensors])
    epochs = _central(plan, procedure)
    return {
        split: Accuracies(
            federated=_accuracy(procedure, federated, split),
            central=epochs[-1][split],
            central_best=max(epoch[split] for epoch in epochs),
        )
        for split in (_SITES_TEST, _OFFICIAL_TEST)
    }


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
    """Return all sites' training splits as one site, which tests on the sites' test splits and on official images."""
    dataset = ADAPTERS.find("cifar10")(Source(path=path, options={"split": "all"}), plan.data)
    sites = [site_splits(plan, site) for site in range(SITES)]
    splits = Splits(
        train=np.concatenate([splits.train for splits in sites]),
        validation=np.concatenate([splits.test for splits in sites]),
        test=np.arange(_TRAINING_IMAGES, len(dataset)),
    )
    return SupervisedTraining(plan=plan, dataset=dataset, splits=splits, device=torch.device("cpu"))


def _central(plan: StudyPlan, procedure: SupervisedTraining) -> list[dict[Split, float]]:
    """Return the accuracies after each epoch."""
    parameters = procedure.initial(derive_seed(plan.seed, "initial"))
    epochs = []
    for number in range(1, plan.rounds.count + 1):
        seed = derive_seed(plan.seed, 0, number, "train")
        parameters = parameters + procedure.train(parameters, round_number=number, seed=seed).delta
        epochs.append({split: _accuracy(procedure, parameters, split) for split in (_SITES_TEST, _OFFICIAL_TEST)})
    return epochs


def _accuracy(procedure: SupervisedTraining, parameters: Vector, split: Split) -> float:
    counts = of_classes(procedure.evaluate(parameters, split))
    return 100.0 * float(np.trace(counts.confusion)) / counts.num_examples
