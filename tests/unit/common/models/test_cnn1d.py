from typing import Any

import pytest
import torch
from tests.unit.common.models.model_checks import (
    array,
    assert_the_gradient_reaches_all,
    assert_the_seed_decides,
    fit,
    shapes,
    size,
)
from torch import Tensor
from torch.nn import functional

from hansa_common.contract import ArrayContract
from hansa_common.models.cnn1d import CNN1DOptions, build, check

SMALL = CNN1DOptions(filters=(4, 5), kernel=3, dense=6)


def test_its_layers_and_how_many_parameters() -> None:
    network = build(SMALL, array(11, 2))
    assert shapes(network) == {
        "conv1.weight": (4, 2, 3),
        "conv1.bias": (4,),
        "conv2.weight": (5, 4, 3),
        "conv2.bias": (5,),
        "dense1.weight": (6, 10),  # 11 -> 5 -> 2 steps of 5 channels
        "dense1.bias": (6,),
        "dense2.weight": (3, 6),
        "dense2.bias": (3,),
    }
    # 30 steps of 14 channels to 30 // 8 = 3 steps
    assert size(build(CNN1DOptions(), array(30, 14))) == (
        (14 * 5 + 1) * 32 + (32 * 5 + 1) * 64 + (64 * 5 + 1) * 64 + (3 * 64 + 1) * 64 + 65 * 3
    )


def test_it_computes_convolutions_over_time() -> None:
    """Oracle: the sums written out, padded with a zero step at each end."""
    torch.manual_seed(1)
    network, inputs = build(SMALL, array(11, 2)), torch.randn(3, 11, 2)
    weights = {name: parameter.detach() for name, parameter in network.named_parameters()}

    def convolve(values: Tensor, name: str) -> Tensor:
        padded = functional.pad(values, (0, 0, 1, 1))
        windows = torch.stack([padded[:, step : step + 3] for step in range(values.shape[1])], 1)  # [N, T, 3, C]
        kernels = weights[f"{name}.weight"].transpose(1, 2).flatten(1)  # [O, K * C]
        sums = windows.flatten(2) @ kernels.T + weights[f"{name}.bias"]
        even = sums.shape[1] // 2 * 2
        return torch.maximum(sums[:, 0:even:2], sums[:, 1:even:2]).clamp(min=0)

    values = convolve(convolve(inputs, "conv1"), "conv2").transpose(1, 2).flatten(1)
    values = (values @ weights["dense1.weight"].T + weights["dense1.bias"]).clamp(min=0)
    torch.testing.assert_close(network(inputs), values @ weights["dense2.weight"].T + weights["dense2.bias"])


def test_channels_may_come_first_and_one_channel_needs_no_axis() -> None:
    torch.manual_seed(1)
    network = build(SMALL, array(11, 2))
    first = build(SMALL.model_copy(update={"layout": "channels_first"}), array(2, 11))
    first.load_state_dict(network.state_dict())
    inputs = torch.randn(3, 11, 2)
    assert torch.equal(first(inputs.transpose(1, 2)), network(inputs))
    for layout in ("time_first", "channels_first"):
        alone = build(SMALL.model_copy(update={"layout": layout}), array(11))
        assert shapes(alone)["conv1.weight"] == (4, 1, 3)
        assert alone(torch.randn(3, 11)).shape == (3, 3)


@pytest.mark.parametrize(
    ("options", "contract", "message"),
    [
        ({"kernel": 4}, array(32, 2), "kernel: found 4; allowed is an odd number"),
        ({}, array(7, 32), "7 steps are too short .* least is 8"),
        ({"layout": "channels_first"}, array(32, 7), "7 steps are too short"),
        ({}, array(8, 2, 2), "data.shape"),
    ],
)
def test_signals_that_do_not_fit_are_refused(options: dict[str, Any], contract: ArrayContract, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check(CNN1DOptions(**options), contract)
    check(CNN1DOptions(), array(8, 2))
    check(CNN1DOptions(layout="channels_first"), array(2, 8))


def test_the_gradient_reaches_every_parameter_and_the_seed_decides() -> None:
    torch.manual_seed(1)
    network = build(SMALL, array(11, 2))
    assert_the_gradient_reaches_all(
        network, functional.cross_entropy(network(torch.randn(32, 11, 2)), torch.arange(32) % 3)
    )
    assert_the_seed_decides(lambda: build(SMALL, array(11, 2)))


def test_it_tells_frequencies_apart_whatever_their_phase() -> None:
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(60) % 3
    phases = 6.28 * torch.rand(60, 1, generator=generator)
    inputs = torch.sin((labels[:, None] + 1) * torch.linspace(0, 6.28, 32) + phases)
    torch.manual_seed(1)
    network = build(CNN1DOptions(filters=(8, 8), dense=16), array(32))
    loss = fit(network.parameters(), lambda: functional.cross_entropy(network(inputs), labels), steps=60, rate=0.01)
    assert loss < 0.1  # guessing gives 1.1
