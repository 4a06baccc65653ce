"""What privacy costs in accuracy: MNIST by DP-SGD at one site, at a budget that others published results for.

Noise multiplier 1.3, batches of 240 of 60,000 on the average, 15 epochs (rate 0.004, 3,750 steps), delta 1e-5. The
model is the convolutional network of Papernot et al., "Tempered Sigmoid Activations for Deep Learning with Differential
Privacy", AAAI 2021, table 1, with tanh. Learning rate and clipping bound were not searched on the test images.
"""

import gzip
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from dp_accounting import dp_event
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant
from torch import nn

from benchmarks.table import print_table, times, verdict
from hansa_client.data.source import Dataset
from hansa_client.data.split import Splits
from hansa_client.training.memory import keep_freed_memory
from hansa_client.training.private import PrivateTraining
from hansa_client.training.procedure import Procedure
from hansa_client.training.supervised import SupervisedTraining
from hansa_common.models import ARCHITECTURES, Architecture
from hansa_common.plan import StudyPlan, parse_plan
from hansa_common.seeds import derive_seed
from hansa_common.settings import Strict

EPOCHS: Final = 15
BATCH: Final = 240
IMAGES: Final = 60_000
NOISE: Final = 1.3
DELTA: Final = 1e-5
GOAL_ACCURACY: Final = 94.6  # %
GOAL_EPSILON: Final = 0.84
_TIMED: Final = 20  # steps
_CPU: Final = torch.device("cpu")
_DIGITS: Final = tuple(str(digit) for digit in range(10))


class TemperedOptions(Strict):
    pass


def _tempered(options: TemperedOptions, contract: Any) -> nn.Module:
    del options, contract
    return nn.Sequential(
        nn.Conv2d(1, 16, 8, stride=2, padding=3),
        nn.Tanh(),
        nn.MaxPool2d(2, 1),
        nn.Conv2d(16, 32, 4, stride=2),
        nn.Tanh(),
        nn.MaxPool2d(2, 1),
        nn.Flatten(),
        nn.Linear(512, 32),
        nn.Tanh(),
        nn.Linear(32, 10),
    )


_NAME: Final = "benchmark_tempered"
ARCHITECTURES.register(_NAME)(
    Architecture(options=TemperedOptions, accepts=frozenset({"image"}), build=_tempered),
)


def run(repeat: int) -> None:
    """Train with one seed of the initial weights after the other."""
    folder = Path(os.environ.get("HANSA_TEST_DATA", Path(__file__).parents[2] / "shared" / "data")) / "mnist"
    if not folder.is_dir():
        print(f"\nSkipped: there is no {folder}; name the folder that holds it by --data.")
        return
    keep_freed_memory()
    torch.set_num_threads(1)
    dataset = _read(folder)
    print_table(
        ["private training beside ordinary", "private", "ordinary", "ratio"],
        [_time_steps(_plan(1), dataset), _time_steps(_shared_cnn(), _noise_images())],
    )
    found = [_train(dataset, seed) for seed in range(1, repeat + 1)]
    pld, rdp = (_epsilon(accountant) for accountant in (PLDAccountant, RdpAccountant))
    rows = [
        [
            f"seed {seed}",
            f"{result.accuracy:.2f}",
            verdict(result.accuracy >= GOAL_ACCURACY),
            f"{pld:.3f}",
            verdict(pld <= GOAL_EPSILON),
            f"{rdp:.3f}",
            f"{result.processor_seconds:.0f}",
            f"{result.seconds:.0f}",
        ]
        for seed, result in enumerate(found, 1)
    ]
    print_table(
        [
            f"{EPOCHS} epochs, delta {DELTA:g}",
            "accuracy in %",
            f"goal: {GOAL_ACCURACY}",
            "epsilon, PLD",
            f"goal: {GOAL_EPSILON}",
            "epsilon, RDP",
            "processor, s",
            "seconds",
        ],
        rows,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Result:
    accuracy: float  # %, on the 10,000 test images
    processor_seconds: float
    seconds: float


def _train(dataset: Dataset, seed: int) -> _Result:
    plan = _plan(seed)
    splits = Splits(train=np.arange(IMAGES), validation=np.arange(0), test=np.arange(IMAGES, len(dataset)))
    site = PrivateTraining(plan=plan, dataset=dataset, splits=splits, device=_CPU)
    exact = SupervisedTraining(plan=plan, dataset=dataset, splits=splits, device=_CPU)
    started, processor = time.perf_counter(), time.process_time()
    parameters = site.initial(derive_seed(seed, "initial"))
    for number in range(1, EPOCHS + 1):
        parameters = parameters + site.train(parameters, round_number=number, seed=seed).delta
        print(f"seed {seed}, epoch {number} of {EPOCHS}: {time.perf_counter() - started:.0f} s", flush=True)
    seconds, processor_seconds = time.perf_counter() - started, time.process_time() - processor
    confusion = exact.evaluate(parameters, "test").confusion
    accuracy = 100.0 * float(np.trace(confusion)) / float(confusion.sum())
    return _Result(accuracy=accuracy, processor_seconds=processor_seconds, seconds=seconds)


def _epsilon(accountant: Callable[[], Any]) -> float:
    sampled = dp_event.PoissonSampledDpEvent(BATCH / IMAGES, dp_event.GaussianDpEvent(NOISE))
    account = accountant()
    account.compose(sampled, EPOCHS * IMAGES // BATCH)
    return float(account.get_epsilon(DELTA))


def _plan(seed: int) -> StudyPlan:
    return parse_plan(
        {
            "name": "private-mnist",
            "purpose": "To measure what privacy costs in accuracy.",
            "seed": seed,
            "model": {"name": _NAME},
            "data": {"kind": "image", "channels": 1, "height": 28, "width": 28, "classes": _DIGITS},
            "training": {
                "optimizer": "sgd",
                "learning_rate": 1.0,
                "schedule": "linear",
                "batch_size": BATCH,
                "steps": IMAGES // BATCH,
            },
            "rounds": {"count": EPOCHS},
            "privacy": _privacy(clipping_bound=0.5, sampling_rate=BATCH / IMAGES),
        }
    )


def _shared_cnn() -> StudyPlan:
    return parse_plan(
        {
            "name": "private-cnn",
            "purpose": "To measure what privacy costs in time.",
            "model": {"name": "cnn"},
            "data": {"kind": "image", "channels": 3, "height": 32, "width": 32, "classes": _DIGITS},
            "training": {"optimizer": "sgd", "learning_rate": 0.1, "batch_size": 32, "steps": _TIMED},
            "rounds": {"count": 1},
            "privacy": _privacy(clipping_bound=1.0, sampling_rate=0.032),
        }
    )


def _privacy(*, clipping_bound: float, sampling_rate: float) -> dict[str, Any]:
    differential = {
        "kind": "example",
        "clipping_bound": clipping_bound,
        "noise_multiplier": NOISE,
        "epsilon": GOAL_EPSILON,
        "delta": DELTA,
        "sampling_rate": sampling_rate,
    }
    return {"weights": "equal", "differential": differential}


def _time_steps(plan: StudyPlan, dataset: Dataset) -> list[str]:
    """Time both procedures in turn on batches of one size, sampled or not; the fastest of three rounds each."""
    plan = plan.model_copy(update={"training": plan.training.model_copy(update={"steps": _TIMED})})
    count = min(IMAGES, len(dataset) - 2)
    splits = Splits(
        train=np.arange(count), validation=np.arange(count, count + 1), test=np.arange(count + 1, count + 2)
    )
    sites: list[Procedure] = [
        kind(plan=plan, dataset=dataset, splits=splits, device=_CPU) for kind in (PrivateTraining, SupervisedTraining)
    ]
    best = [float("inf")] * 2
    for _ in range(3):
        for place, site in enumerate(sites):
            parameters = site.initial(0)
            started = time.process_time()
            site.train(parameters, round_number=1, seed=1)
            best[place] = min(best[place], (time.process_time() - started) / _TIMED)
    private, ordinary = best
    title = f"{plan.model.name}, {sites[0].spec.size:,} parameters, batches of {plan.training.batch_size}"
    return [title, f"{1e3 * private:.1f} ms", f"{1e3 * ordinary:.1f} ms", times(private / ordinary)]


def _noise_images() -> Dataset:
    rng = np.random.default_rng(0)
    return Dataset(features=rng.integers(0, 256, (1_002, 32, 32, 3), dtype=np.uint8), labels=rng.integers(0, 10, 1_002))


def _read(folder: Path) -> Dataset:
    """Return the training images, then the test images, from the four IDX files of LeCun et al."""
    images = [_idx(folder / f"{part}-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28, 1) for part in ("train", "t10k")]
    labels = [_idx(folder / f"{part}-labels-idx1-ubyte.gz", 8) for part in ("train", "t10k")]
    return Dataset(features=np.concatenate(images), labels=np.concatenate(labels).astype(np.int64))


def _idx(path: Path, header: int) -> npt.NDArray[np.uint8]:
    return np.frombuffer(gzip.decompress(path.read_bytes()), dtype=np.uint8, offset=header)
