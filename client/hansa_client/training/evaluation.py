"""What a model gets right on a site's examples, in float32; shared by the procedures.

Shapes: ``N`` examples, ``K`` classes.
"""

from typing import Final

import numpy as np
import torch
from torch.nn import functional

from hansa_client.training.examples import Examples, model_input
from hansa_client.training.flat_model import FlatModel
from hansa_client.training.memory import exhaustion_named
from hansa_common.contract import feature_count
from hansa_common.errors import TrainingError
from hansa_common.metrics import ClassificationCounts
from hansa_common.models.registry import Contract
from hansa_common.parameters import Vector

EVALUATION_BATCH: Final = 512  # examples at most
# Feature values of an evaluation batch. On a CPU its activations have to stay in the cache: the shared CNN evaluates
# 512 images of 32x32 in 52 ms in batches of 85 and in 76 ms at once. A GPU wants to be filled: 64 MiB as float32.
EVALUATION_VALUES_CPU: Final = 1 << 18
EVALUATION_VALUES_GPU: Final = 1 << 24
DIVERGED: Final = "Lower training.learning_rate, or bound the gradient with training.gradient_clip = 1.0."


def evaluation_batch(contract: Contract, device: torch.device) -> int:
    """Return how many examples are evaluated at once."""
    values = EVALUATION_VALUES_CPU if device.type == "cpu" else EVALUATION_VALUES_GPU
    return max(1, min(EVALUATION_BATCH, values // feature_count(contract)))


def count_answers(
    model: FlatModel, parameters: Vector, examples: Examples, contract: Contract, *, batch: int, histograms: bool
) -> ClassificationCounts:
    """Count what the model with these parameters gets right.

    Losses are not weighted by class.

    Args:
        model: Loaded with the parameters and left so.
        parameters: ``float32 [P]``.
        examples: What to predict.
        contract: Of the data; it has the classes.
        batch: How many examples at once.
        histograms: Whether ROC AUC and calibration are wanted too.

    Raises:
        TrainingOutOfMemory: The device has too little memory.
        TrainingError: The model's outputs are not finite.
    """
    counts = ClassificationCounts.zero(len(contract.classes), histograms=histograms)
    model.load(parameters)
    model.module.eval()
    with (
        exhaustion_named(f"evaluation with batches of {batch}", advice="Take a smaller model."),
        torch.inference_mode(),
    ):
        for features, labels in examples.batches(batch):
            if len(labels):
                counts = counts + _count(model, features, labels, histograms=histograms)
    return counts


def _count(model: FlatModel, features: torch.Tensor, labels: torch.Tensor, *, histograms: bool) -> ClassificationCounts:
    logs = functional.log_softmax(model.module(model_input(features)), dim=1)
    losses = functional.nll_loss(logs, labels, reduction="none").cpu().numpy()
    if not np.isfinite(losses).all():
        raise TrainingError("The model's loss on the site's data is not finite: training diverged.", advice=DIVERGED)
    return ClassificationCounts.of(logs.exp().cpu().numpy(), labels.cpu().numpy(), losses, histograms=histograms)
