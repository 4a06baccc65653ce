"""Explains the last model at one site: sums that may leave, and pictures and rows of single examples that may not.

Shapes: ``N`` examples, ``K`` classes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch

from hansa_client.data.source import Dataset
from hansa_client.data.split import Splits
from hansa_client.training.attribution import Question, attribute, grouped, players_of
from hansa_client.training.evaluation import DIVERGED, evaluation_batch
from hansa_client.training.examples import Examples, Loader, model_input
from hansa_client.training.flat_model import shared_model
from hansa_client.training.keepsakes import Explained, keepsakes
from hansa_common.contract import NumberTarget
from hansa_common.errors import TrainingError
from hansa_common.explain_plan import num_groups, scores_of
from hansa_common.metrics import Importance
from hansa_common.metrics.importance import Doubles
from hansa_common.parameters import Vector
from hansa_common.plan import StudyPlan

_MEAN_BATCH = 4_096  # examples whose mean is taken at once


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """What a site found.

    Attributes:
        importance: Over all explained examples; classes with few examples are still in it.
        kept: Files about single examples by name, for the site's own people.
    """

    importance: Importance
    kept: Mapping[str, bytes] = field(repr=False)


def explain_model(
    plan: StudyPlan, dataset: Dataset, splits: Splits, parameters: Vector, *, device: torch.device, seed: int
) -> Explanation:
    """Explain the model's scores of some of a site's examples.

    Args:
        plan: With ``[evaluation.explain]``.
        dataset: The site's data.
        splits: Which examples are whose.
        parameters: ``float32 [P]``, of the model.
        device: Where to compute.
        seed: Draws the examples, and the permutations of Shapley values.

    Raises:
        TrainingOutOfMemory: The device has too little memory.
        TrainingError: An attribution is not finite.
    """
    explain = plan.evaluation.explain
    assert explain is not None
    loader = Loader(plan.data, dataset, splits.train, device)
    split = splits.validation if explain.split == "validation" else splits.test
    order = np.random.Generator(np.random.Philox(seed)).permutation(len(split))[: explain.examples]
    examples = loader.load(split[order])
    model = shared_model(plan, device)
    model.load(parameters)
    model.module.eval()
    baseline = _baseline(loader.load(splits.train), explain.baseline)
    players = players_of(plan.data).to(device)
    scores, is_class = len(scores_of(plan.data)), plan.data.target is None
    total = Importance.zero(scores, num_groups(plan.data))
    kept: list[Explained] = []
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        for features, labels in examples.batches(evaluation_batch(plan.data, device)):
            if not len(labels):
                continue
            inputs = model_input(features).contiguous()
            own = labels if is_class else torch.zeros(len(labels), dtype=torch.int64, device=device)
            question = Question(inputs=inputs, labels=own, baseline=baseline, players=players)
            found = attribute(explain, model.module, question)
            if not np.isfinite(found).all():
                raise TrainingError("An attribution is not finite: training diverged.", advice=DIVERGED)
            total += Importance.of(*grouped(found, plan.data), own.cpu().numpy(), scores)
            missing = explain.kept_examples - len(kept)
            if missing > 0:
                kept += _kept(plan, model.module, inputs[:missing], labels[:missing], found[:missing])
    return Explanation(importance=total, kept=keepsakes(kept, plan.data))


def _kept(
    plan: StudyPlan, module: torch.nn.Module, inputs: torch.Tensor, labels: torch.Tensor, found: Doubles
) -> list[Explained]:
    """Return examples with what they are, what the model said of them, and why."""
    with torch.inference_mode():
        outputs = module(inputs).float().reshape(len(inputs), -1).cpu()
    target, kept = plan.data.target, []
    for one, label, output, values in zip(inputs.cpu().numpy(), labels.tolist(), outputs, found, strict=True):
        probability: float | None = None
        if target is None:
            classes = plan.data.classes
            truth, predicted = classes[label], classes[int(output.argmax())]
            probability = float(output.softmax(dim=0)[label])
        elif isinstance(target, NumberTarget):
            truth, predicted = (f"{value * target.scale:.6g}" for value in (label, float(output[0])))
        else:
            truth, predicted = f"time {label[0]:.6g}, event {label[1]:g}", f"{float(output[0]):.6g}"
        kept.append(
            Explained(features=one, truth=truth, predicted=predicted, probability=probability, attributions=values)
        )
    return kept


def _baseline(train: Examples, wanted: str) -> torch.Tensor:
    """Return what inputs are compared with, ``float32 [1, ...]``."""
    first = model_input(train.features[:1])
    if wanted == "zero":
        return torch.zeros_like(first)
    sums = [model_input(part).double().sum(dim=0, keepdim=True) for part in torch.split(train.features, _MEAN_BATCH)]
    mean: torch.Tensor = torch.stack(sums).sum(dim=0) / len(train)
    return mean.float()
