"""CIFAR-10 where the user has it: whole, as its authors publish it, or 10,000 and 2,000 images of it.

The whole set is the *binary version*: a folder ``cifar-10-batches-bin`` with ``data_batch_1.bin`` to
``data_batch_5.bin`` and ``test_batch.bin``, records of 3,073 bytes. What is named on the command line may be that
folder, the one around it, or the archive ``cifar-10-binary.tar.gz``.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from safetensors.numpy import load_file

from hansa_client.data import ADAPTERS, Source
from hansa_client.data.split import Splits
from hansa_client.training.procedure import Procedure, Split
from hansa_client.training.supervised import SupervisedTraining
from hansa_common.metrics import of_classes
from hansa_common.parameters import Vector
from hansa_common.plan import StudyPlan

CLASSES: Final = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CONTRACT: Final[dict[str, Any]] = {"kind": "image", "channels": 3, "height": 32, "width": 32, "classes": CLASSES}
ABSENT: Final = (
    "No CIFAR-10. Name it by --data FOLDER: the folder cifar-10-batches-bin of the binary version, with "
    "data_batch_1.bin to data_batch_5.bin and test_batch.bin, or one that holds it "
    "(https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz)."
)
_BINARY: Final = "data_batch_1.bin"
_SUBSET: Final = "cifar10_10k_2k.npz"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cifar10:
    """Where it is, and how much of it.

    Attributes:
        path: As the data adapter ``cifar10`` takes it.
        is_whole: All 50,000 training and 10,000 test images.
    """

    path: Path
    is_whole: bool

    def __str__(self) -> str:
        return "all of CIFAR-10" if self.is_whole else "10,000 training and 2,000 test images of CIFAR-10"


def find(folder: Path | None = None) -> Cifar10 | None:
    """Return CIFAR-10 of a folder, of ``HANSA_TEST_DATA`` where none is named; the whole set where both are there."""
    default = Path(__file__).parents[2] / "shared" / "data"
    data = folder if folder is not None else Path(os.environ.get("HANSA_TEST_DATA", default))
    for place in (data, data / "cifar10"):
        if place.is_file() and place.name.endswith((".tar.gz", ".tar")):
            return Cifar10(path=place, is_whole=True)
        if (place / _BINARY).is_file() or (place / "cifar-10-batches-bin" / _BINARY).is_file():
            return Cifar10(path=place, is_whole=True)
        if (place / "cifar-10-binary.tar.gz").is_file():
            return Cifar10(path=place / "cifar-10-binary.tar.gz", is_whole=True)
    subset = data / "cifar10" / _SUBSET
    return Cifar10(path=subset, is_whole=False) if subset.is_file() else None


def official_test(plan: StudyPlan, data: Cifar10) -> SupervisedTraining:
    """Return what evaluates the plan's model on the official test images, its split ``test``."""
    dataset = ADAPTERS.find("cifar10")(Source(path=data.path, options={"split": "test"}), plan.data)
    everything = np.arange(len(dataset))
    splits = Splits(train=everything, validation=everything[:0], test=everything)
    return SupervisedTraining(plan=plan, dataset=dataset, splits=splits, device=torch.device("cpu"))


def model_of(run: Path, procedure: Procedure) -> Vector:
    """Return the model of a run, ``float32 [P]``."""
    tensors = load_file(run / "model.safetensors")
    model: Vector = np.concatenate([tensors[tensor.name].reshape(-1) for tensor in procedure.spec.tensors])
    return model


def accuracy(procedure: Procedure, parameters: Vector, split: Split) -> float:
    """Return the percentage of right answers on a split."""
    counts = of_classes(procedure.evaluate(parameters, split))
    return 100.0 * float(np.trace(counts.confusion)) / counts.num_examples
