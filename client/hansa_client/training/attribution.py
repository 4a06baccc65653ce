"""Attributions: how much each input of an example raised or lowered the score of one class; through captum.

* Integrated gradients: Sundararajan, Taly, Yan, "Axiomatic Attribution for Deep Networks", ICML 2017, equation 1.
* Grad-CAM: Selvaraju and others, "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization",
  ICCV 2017, equations 1 and 2, on the last convolution.
* Shapley values by sampled permutations: Castro, Gomez, Tejada, "Polynomial calculation of the Shapley value based on
  sampling", 2009; Strumbelj and Kononenko, "An Efficient Explanation of Individual Classifications using Game Theory",
  JMLR 2010. The columns of a table are the players; one-hot features of one column enter together.

The score is the logit of the class, or the number that is predicted; of a model with one output for two classes it is
the log odds of the class, because the logit of the first one is always 0. captum is imported only when something is
explained.

Shapes: ``N`` examples, ``K`` classes, ``C`` channels, ``H`` height, ``W`` width, ``G`` groups.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hansa_client.training.memory import exhaustion_named
from hansa_common.contract import ImageContract, TableContract
from hansa_common.errors import TaskRefused
from hansa_common.explain_plan import ExplainPlan, grid_of
from hansa_common.metrics.importance import Doubles
from hansa_common.models.registry import Contract


def require_explainable(explain: ExplainPlan, module: nn.Module) -> None:
    """Return if this model's answers can be explained here; asked before the first round, not after the last.

    Raises:
        TaskRefused: captum is not installed, the model reads tokens, or Grad-CAM is asked of one without a
            convolution.
    """
    if find_spec("captum") is None:
        raise TaskRefused(
            "The plan asks for [evaluation.explain], and captum is not installed at this site.",
            advice="Install it with: pip install 'hansa[explain]'.",
        )
    if any(isinstance(layer, nn.Embedding) for layer in module.modules()):
        raise TaskRefused(
            "evaluation.explain: the model reads token numbers, which have no baseline and no gradient.",
            advice="Leave [evaluation.explain] out of this study.",
        )
    if explain.method == "grad_cam" and last_convolution(module) is None:
        raise TaskRefused(
            "evaluation.explain.method = 'grad_cam' needs a model with a two-dimensional convolution.",
            advice="Take 'integrated_gradients'.",
        )


def last_convolution(module: nn.Module) -> nn.Conv2d | None:
    """Return the convolution that comes last in the module's own order; ``None`` where it has none."""
    found = [layer for layer in module.modules() if isinstance(layer, nn.Conv2d)]
    return found[-1] if found else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """Examples whose scores are explained.

    Attributes:
        inputs: ``float32 [N, ...]``, as the model gets them.
        labels: ``int64 [N]``, whose scores.
        baseline: ``float32 [1, ...]``, what an input is compared with.
        players: ``int64 [1, ...]``, which player an input belongs to; only Shapley values look at it.
    """

    inputs: Tensor = field(repr=False)
    labels: Tensor = field(repr=False)
    baseline: Tensor = field(repr=False)
    players: Tensor = field(repr=False)


def attribute(explain: ExplainPlan, module: nn.Module, question: Question) -> Doubles:
    """Return what each input did to the score of each example's class.

    Args:
        explain: The method and its steps.
        module: In evaluation mode; its parameters and their gradients are left alone.
        question: Inputs, classes, baseline.

    Returns:
        ``float64 [N, ...]``; of Grad-CAM ``[N, H, W]``, not negative, interpolated to the size of the image. What
        Shapley gives a player is divided equally among its inputs.

    Raises:
        TrainingOutOfMemory: The device has too little memory.
    """
    methods = {"integrated_gradients": _integrated_gradients, "grad_cam": _grad_cam, "shapley": _shapley}
    with (
        exhaustion_named("explaining examples", advice="Lower evaluation.explain.steps or take a smaller model."),
        torch.backends.cudnn.flags(enabled=False),  # its recurrent layers have no gradient in evaluation mode
    ):
        found = methods[explain.method](explain, module, question)
    values: Doubles = found.detach().to(device="cpu", dtype=torch.float64).numpy()
    return values


def _scores(module: nn.Module) -> Callable[[Tensor], Tensor]:
    """Return what gives ``float32 [N, K]``, also of a model that gives one number an example.

    Where a model has one output for two classes, its first logit is a constant: each class has its log odds then.
    """
    has_one_output = any(isinstance(layer, nn.ConstantPad1d) for layer in module.children())

    def scores(inputs: Tensor) -> Tensor:
        outputs: Tensor = module(inputs)
        found = outputs.float().reshape(len(outputs), -1)
        return found - found.flip(1) if has_one_output else found

    return scores


def _integrated_gradients(explain: ExplainPlan, module: nn.Module, question: Question) -> Tensor:
    from captum.attr import IntegratedGradients  # noqa: PLC0415 - optional, and slow to import

    # Gauss-Legendre points: exact along the path for a polynomial of degree 2 * steps - 1, so for a linear model too
    method = IntegratedGradients(_scores(module))
    found: Tensor = method.attribute(
        question.inputs,
        baselines=question.baseline.expand_as(question.inputs),
        target=question.labels,
        n_steps=explain.steps,
        method="gausslegendre",
        internal_batch_size=max(len(question.inputs), 1),
    )
    return found


def _grad_cam(explain: ExplainPlan, module: nn.Module, question: Question) -> Tensor:
    from captum.attr import LayerAttribution, LayerGradCam  # noqa: PLC0415 - optional, and slow to import

    del explain
    layer = last_convolution(module)
    assert layer is not None
    maps = LayerGradCam(_scores(module), layer).attribute(
        question.inputs, target=question.labels, relu_attributions=True
    )
    size = (question.inputs.shape[-2], question.inputs.shape[-1])
    found: Tensor = LayerAttribution.interpolate(maps, size, interpolate_mode="bilinear")[:, 0]
    return found


def _shapley(explain: ExplainPlan, module: nn.Module, question: Question) -> Tensor:
    from captum.attr import ShapleyValueSampling  # noqa: PLC0415 - optional, and slow to import

    with torch.no_grad():
        found: Tensor = ShapleyValueSampling(_scores(module)).attribute(
            question.inputs,
            baselines=question.baseline,
            target=question.labels,
            feature_mask=question.players,
            n_samples=explain.steps,
        )
    sizes = torch.bincount(question.players.reshape(-1))
    return found / sizes[question.players]


def players_of(contract: Contract) -> Tensor:
    """Return which player each input belongs to, ``int64 [1, ...]``: a table's column, else each input by itself."""
    if isinstance(contract, TableContract):
        widths = torch.tensor([column.width for column in contract.columns])
        return torch.repeat_interleave(torch.arange(len(widths)), widths)[None]
    size = int(np.prod(contract.feature_shape))
    return torch.arange(size).reshape(1, *contract.feature_shape)


def grouped(attributions: Doubles, contract: Contract) -> tuple[Doubles, Doubles]:
    """Sum attributions by group, what raised a score apart from what lowered it.

    One-hot features of one column are one number before they are told apart, and so are the channels of a pixel;
    pixels of a cell, and the features of a step, are told apart first: what cancels inside a group still counts.

    Args:
        attributions: ``float64 [N, ...]`` as ``attribute`` returns them.
        contract: Of the data.

    Returns:
        Raising and lowering, ``float64 [N, G]`` each, not negative; groups in the order of ``views_of``.
    """
    if isinstance(contract, TableContract):
        starts = np.cumsum([0, *(column.width for column in contract.columns[:-1])])
        attributions = np.add.reduceat(attributions, starts, axis=1)
    elif isinstance(contract, ImageContract) and attributions.ndim == 4:  # noqa: PLR2004  # [N, C, H, W]
        attributions = attributions.sum(axis=1)
    raising, lowering = np.maximum(attributions, 0.0), np.maximum(-attributions, 0.0)
    return _by_group(raising, contract), _by_group(lowering, contract)


def _by_group(values: Doubles, contract: Contract) -> Doubles:
    if isinstance(contract, TableContract) or values.ndim == 2:  # noqa: PLR2004 [N, F]
        return values
    if isinstance(contract, ImageContract):
        rows, columns = (
            np.arange(cells) * length // cells
            for cells, length in zip(grid_of(contract), values.shape[1:], strict=True)
        )
        cells: Any = np.add.reduceat(np.add.reduceat(values, rows, axis=1), columns, axis=2)
        return np.asarray(cells.reshape(len(values), -1), np.float64)
    by_feature = values.reshape(len(values), -1, values.shape[-1]).sum(axis=1)
    by_step = values.sum(axis=-1).reshape(len(values), -1)
    return np.concatenate([by_feature, by_step], axis=1)
