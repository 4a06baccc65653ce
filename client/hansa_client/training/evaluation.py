"""What a model gets right on a site's examples, in float32; shared by the procedures.

Shapes: ``N`` examples, ``K`` classes.
"""

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from hansa_client.training.examples import Examples, model_input
from hansa_client.training.flat_model import FlatModel
from hansa_client.training.losses import cox_losses, number_losses, reconstruction_losses
from hansa_client.training.memory import exhaustion_named
from hansa_common.contract import NumberTarget, ReconstructionTarget, SurvivalTarget, feature_count
from hansa_common.errors import TrainingError
from hansa_common.metrics import (
    ClassificationCounts,
    Counts,
    ReconstructionCounts,
    SurvivalCounts,
    counts_kind,
    empty_regression,
)
from hansa_common.models.networks.mean_answer import mean_answer
from hansa_common.models.outputs import target_kind
from hansa_common.models.registry import Contract
from hansa_common.parameters import Vector

EVALUATION_BATCH: Final = 512  # examples at most
# Feature values of an evaluation batch. On a CPU its activations have to stay in the cache: the shared CNN evaluates
# 512 images of 32x32 in 52 ms in batches of 85 and in 76 ms at once. A GPU wants to be filled: 64 MiB as float32.
EVALUATION_VALUES_CPU: Final = 1 << 18
EVALUATION_VALUES_GPU: Final = 1 << 24
_Answer = Callable[[torch.Tensor], torch.Tensor]
DIVERGED: Final = "Lower training.learning_rate, or bound the gradient with training.gradient_clip = 1.0."


def evaluation_batch(contract: Contract, device: torch.device) -> int:
    """Return how many examples are evaluated at once."""
    values = EVALUATION_VALUES_CPU if device.type == "cpu" else EVALUATION_VALUES_GPU
    return max(1, min(EVALUATION_BATCH, values // feature_count(contract)))


def count_answers(
    model: FlatModel,
    versions: Sequence[Vector],
    examples: Examples,
    contract: Contract,
    *,
    batch: int,
    histograms: bool,
    members: npt.NDArray[np.bool_] | None = None,
) -> Counts:
    """Count what the model with these parameters gets right, or several versions of it as one.

    Several answer with the mean of their probabilities, or outputs, as ``hansa_common.models.ensemble`` says. Losses
    are not weighted by class.

    Args:
        model: Loaded with the parameters and left so; of several versions with any of them.
        versions: ``float32 [P]`` each, at least one.
        examples: What to predict.
        contract: Of the data; it has the classes.
        batch: How many examples at once.
        histograms: Whether ROC AUC and calibration are wanted too.
        members: ``bool [N, G]``, who is in which group, where decisions are counted.

    Raises:
        TrainingOutOfMemory: The device has too little memory.
        TrainingError: The model's outputs are not finite.
    """
    model.load(versions[0])
    model.module.eval()
    answer: _Answer = model.module if len(versions) == 1 else _together(model, versions, contract)
    with (
        exhaustion_named(f"evaluation with batches of {batch}", advice="Take a smaller model."),
        torch.inference_mode(),
    ):
        if contract.target is not None:
            if not len(examples):
                return counts_kind(contract).zero(histograms=histograms)
            return _count_target(answer, examples, contract.target, batch=batch, histograms=histograms)
        rows = 0 if members is None else 1 + members.shape[1]
        counts = ClassificationCounts.zero(len(contract.classes), histograms=histograms, rows=rows)
        for number, (features, labels) in enumerate(examples.batches(batch)):
            if len(labels):
                there = None if members is None else members[number * batch :][: len(labels)]
                counts = counts + _count(answer, features, labels, histograms=histograms, members=there)
    return counts


def _together(model: FlatModel, versions: Sequence[Vector], contract: Contract) -> _Answer:
    """Return what answers as all versions: one network, loaded anew for each of them and each batch."""
    are_logits = target_kind(contract) == "classes"

    def answer(inputs: torch.Tensor) -> torch.Tensor:
        outputs = []
        for version in versions:
            model.load(version)
            outputs.append(model.module(inputs).float())
        return mean_answer(torch.stack(outputs), are_logits=are_logits)

    return answer


def _count(
    answer: _Answer,
    features: torch.Tensor,
    labels: torch.Tensor,
    *,
    histograms: bool,
    members: npt.NDArray[np.bool_] | None,
) -> ClassificationCounts:
    logs = functional.log_softmax(answer(model_input(features)), dim=1)
    losses = _finite(functional.nll_loss(logs, labels, reduction="none"))
    scores = logs.exp().cpu().numpy()
    return ClassificationCounts.of(scores, labels.cpu().numpy(), losses, histograms=histograms, members=members)


def _count_target(
    answer: _Answer,
    examples: Examples,
    target: NumberTarget | SurvivalTarget | ReconstructionTarget,
    *,
    batch: int,
    histograms: bool,
) -> Counts:
    """Count what is no class: of the whole split at once, because pairs of people are not in one batch."""
    found = []
    for features, _ in examples.batches(batch):
        inputs = model_input(features)
        outputs = answer(inputs).float()
        is_input = isinstance(target, ReconstructionTarget)
        found.append(reconstruction_losses(outputs, inputs) if is_input else outputs.reshape(-1))
    outputs = torch.cat(found)
    labels = examples.labels
    match target:
        case NumberTarget():
            losses = _finite(number_losses(target, outputs, labels))
            return empty_regression(target).of(outputs.cpu().numpy(), labels.cpu().numpy(), losses)
        case SurvivalTarget():
            times, events = labels.unbind(dim=1)
            losses = _finite(cox_losses(outputs.double(), times, events))
            seen = events.cpu().numpy().astype(np.int64)
            return SurvivalCounts.of(_finite(outputs), times.cpu().numpy(), seen, losses)
    anomalies, labelled = labels.cpu().numpy(), target.anomaly is not None
    return ReconstructionCounts.of(_finite(outputs), anomalies, labelled=labelled, histograms=histograms)


def _finite(values: torch.Tensor) -> npt.NDArray[np.float32]:
    found: npt.NDArray[np.float32] = values.cpu().numpy()
    if not np.isfinite(found).all():
        raise TrainingError("The model's loss on the site's data is not finite: training diverged.", advice=DIVERGED)
    return found
