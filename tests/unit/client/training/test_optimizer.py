import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import nn

from hansa_client.training.optimizer import build_optimizer
from hansa_common.training_plan import TrainingPlan


def _gradients() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(1000, generator=generator) for _ in range(20)]


def _steps(parameter: nn.Parameter, step: Any) -> torch.Tensor:
    parameter.grad = torch.zeros_like(parameter)
    for number, gradient in enumerate(_gradients()):
        parameter.grad.copy_(gradient)
        step(0.1 / (1 + number))
    return parameter.detach()


@pytest.mark.parametrize(
    ("options", "reference"),
    [
        ({"optimizer": "adam"}, lambda p: torch.optim.Adam([p], fused=True)),
        ({"optimizer": "adam", "weight_decay": 0.1}, lambda p: torch.optim.Adam([p], weight_decay=0.1, fused=True)),
        ({"optimizer": "sgd"}, lambda p: torch.optim.SGD([p], fused=True)),
        (
            {"optimizer": "sgd", "momentum": 0.9, "weight_decay": 0.01},
            lambda p: torch.optim.SGD([p], momentum=0.9, weight_decay=0.01, fused=True),
        ),
    ],
)
def test_steps_are_those_of_the_optimiser_classes_bit_for_bit(options: dict[str, Any], reference: Any) -> None:
    ours, theirs = (nn.Parameter(torch.linspace(-1.0, 1.0, 1000)) for _ in range(2))
    known = reference(theirs)

    def step(learning_rate: float) -> None:
        known.param_groups[0]["lr"] = learning_rate
        known.step()

    plan = TrainingPlan(epochs=1, **options)
    assert torch.equal(_steps(ours, build_optimizer(plan, ours).step), _steps(theirs, step))


@pytest.mark.slow
def test_a_step_does_not_load_the_compiler() -> None:
    program = """
import sys, torch
from hansa_client.training.optimizer import build_optimizer
from hansa_common.training_plan import TrainingPlan
for options in ({"optimizer": "adam"}, {"optimizer": "sgd", "momentum": 0.9}):
    parameter = torch.nn.Parameter(torch.zeros(2))
    parameter.grad = torch.ones(2)
    build_optimizer(TrainingPlan(epochs=1, **options), parameter).step(0.1)
sys.exit("torch._dynamo" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
