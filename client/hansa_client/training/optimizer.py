"""The optimisers of local training, on one flat parameter: PyTorch's kernels through its functional interface.

The first object of a class in ``torch.optim`` loads PyTorch's compiler, which nothing here uses: 0.9 s and 70 MB in
each process that trains. The functions behind the classes do the same steps, bit for bit, without it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn
from torch.optim.adam import adam
from torch.optim.sgd import sgd

from hansa_common.training_plan import TrainingPlan

_FUSED = ("cpu", "cuda")  # kinds of devices with one kernel for a whole step


class Optimizer(Protocol):
    """Steps a parameter along its gradient; its state begins with it and ends with it."""

    def step(self, learning_rate: float) -> None:
        """Change the parameter in place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """A part of a parameter with a learning rate of its own.

    Attributes:
        part: Positions.
        factor: On the plan's learning rate.
    """

    part: slice
    factor: float


def build_optimizer(plan: TrainingPlan, parameter: nn.Parameter, groups: Sequence[Group] = ()) -> Optimizer:
    """Make the optimiser that a plan names, its state empty, for a parameter whose gradient stays the same tensor.

    Args:
        plan: What it does.
        parameter: What it steps.
        groups: Parts that together are the parameter, each with a factor on the learning rate; none: one for all.
    """
    if groups:
        return Grouped([(build_optimizer(plan, _part_of(parameter, each.part)), each.factor) for each in groups])
    return Adam(plan, parameter) if plan.optimizer == "adam" else SGD(plan, parameter)


def _part_of(parameter: nn.Parameter, part: slice) -> nn.Parameter:
    """Return a view of a parameter whose gradient is a view of its gradient."""
    assert parameter.grad is not None
    view = nn.Parameter(parameter.data[part])
    view.grad = parameter.grad[part]
    return view


class Grouped:
    """Parts of a parameter, each stepped at a learning rate of its own, as parameter groups of ``torch.optim``."""

    def __init__(self, parts: Sequence[tuple[Optimizer, float]]) -> None:
        self._parts = parts

    def step(self, learning_rate: float) -> None:
        """See ``Optimizer``."""
        for optimizer, factor in self._parts:
            optimizer.step(factor * learning_rate)


class Adam:
    """Kingma and Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015, algorithm 1, with the paper's constants.

    Weight decay is added to the gradient, as in ``torch.optim.Adam``.
    """

    def __init__(self, plan: TrainingPlan, parameter: nn.Parameter) -> None:
        self._parameter = parameter
        self._weight_decay = plan.weight_decay
        self._first, self._second = torch.zeros_like(parameter.data), torch.zeros_like(parameter.data)
        self._fused = parameter.device.type in _FUSED
        self._steps = torch.zeros((), device=parameter.device if self._fused else "cpu")

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """See ``Optimizer``."""
        assert self._parameter.grad is not None
        adam(
            [self._parameter],
            [self._parameter.grad],
            [self._first],
            [self._second],
            [],
            [self._steps],
            fused=self._fused,
            amsgrad=False,
            beta1=0.9,
            beta2=0.999,
            lr=learning_rate,
            weight_decay=self._weight_decay,
            eps=1e-8,
            maximize=False,
        )


class SGD:
    """Stochastic gradient descent with heavy-ball momentum and weight decay, as in ``torch.optim.SGD``."""

    def __init__(self, plan: TrainingPlan, parameter: nn.Parameter) -> None:
        self._parameter = parameter
        self._weight_decay, self._momentum = plan.weight_decay, plan.momentum
        self._buffers: list[torch.Tensor | None] = [None] if plan.momentum else []

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """See ``Optimizer``."""
        assert self._parameter.grad is not None
        sgd(
            [self._parameter],
            [self._parameter.grad],
            self._buffers,
            fused=self._parameter.device.type in _FUSED,
            weight_decay=self._weight_decay,
            momentum=self._momentum,
            lr=learning_rate,
            dampening=0.0,
            nesterov=False,
            maximize=False,
        )
