"""Small data contracts, and what holds for every model."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from hansa_common.contract import ArrayContract, Column, ImageContract, TableContract


def array(*shape: int, classes: int = 3, minimum: float | None = None, maximum: float | None = None) -> ArrayContract:
    return ArrayContract(kind="array", shape=shape, classes=_names(classes), minimum=minimum, maximum=maximum)


def table(features: int, classes: int = 3) -> TableContract:
    columns = tuple(Column(name=f"x{number}") for number in range(features))
    return TableContract(kind="table", label="y", classes=_names(classes), columns=columns)


def image(channels: int, height: int, width: int, classes: int = 3) -> ImageContract:
    return ImageContract(kind="image", channels=channels, height=height, width=width, classes=_names(classes))


def _names(count: int) -> tuple[str, ...]:
    return tuple(f"c{number}" for number in range(count))


def size(module: nn.Module) -> int:
    """Return how many parameters a module has."""
    return sum(parameter.numel() for parameter in module.parameters())


def shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}


def assert_the_seed_decides(build: Callable[[], nn.Module]) -> None:
    """One seed gives one model, another seed another."""

    def vector(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return torch.cat([parameter.detach().reshape(-1) for parameter in build().parameters()])

    assert torch.equal(vector(3), vector(3))
    assert not torch.equal(vector(3), vector(4))


def assert_the_gradient_reaches_all(module: nn.Module, loss: Tensor) -> None:
    """Every tensor gets a gradient that is not zero throughout."""
    loss.backward()  # type: ignore[no-untyped-call]
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        assert float(parameter.grad.abs().sum()) > 0, name


def fit(parameters: Iterable[nn.Parameter], loss: Callable[[], Tensor], *, steps: int, rate: float = 0.01) -> float:
    """Take full-batch steps of Adam and return the last loss; torch.optim would load PyTorch's compiler."""
    trained = list(parameters)
    first, second = ([torch.zeros_like(each) for each in trained] for _ in range(2))
    value = torch.zeros(())
    for step in range(1, steps + 1):
        value = loss()
        gradients = torch.autograd.grad(value, trained)
        with torch.no_grad():
            for parameter, gradient, mean, square in zip(trained, gradients, first, second, strict=True):
                mean.lerp_(gradient, 0.1)
                square.lerp_(gradient.square(), 0.001)
                parameter.sub_(rate * (mean / (1 - 0.9**step)) / ((square / (1 - 0.999**step)).sqrt() + 1e-8))
    return float(value.detach())
