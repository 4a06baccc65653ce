from typing import Any

import pytest
import torch
from tests.unit.common.models.model_checks import (
    assert_the_gradient_reaches_all,
    assert_the_seed_decides,
    fit,
    image,
    shapes,
    size,
)
from torch import Tensor, nn
from torch.nn import functional

from hansa_common.models import ARCHITECTURES
from hansa_common.models.resnet import ResNetOptions, build, check

RGB = image(3, 32, 32, classes=10)


@pytest.mark.parametrize(
    ("options", "contract", "parameters"),
    [
        ({"stem": "large"}, image(3, 224, 224, classes=1000), 11_689_512),  # torchvision's ResNet-18
        ({}, RGB, 11_173_962),  # the usual form for CIFAR-10: 3x3 stem, no pooling
        ({"depth": 34, "stem": "large"}, image(3, 224, 224, classes=1000), 21_797_672),  # torchvision's ResNet-34
        ({"depth": 20}, RGB, 269_722),  # He et al., table 6: 0.27M
        ({"depth": 20, "normalisation": "batch"}, RGB, 269_722),
        ({"depth": 32}, RGB, 464_154),  # 0.46M
        ({"depth": 44}, RGB, 658_586),  # 0.66M
        ({"depth": 56}, RGB, 853_018),  # 0.85M
        ({"depth": 14}, RGB, 172_506),
        ({"depth": 8}, RGB, 75_290),
    ],
)
def test_the_published_numbers_of_parameters_and_layers(
    options: dict[str, Any], contract: Any, parameters: int
) -> None:
    network = build(ResNetOptions(**options), contract)
    assert size(network) == parameters
    weighty = [name for name, each in network.named_modules() if isinstance(each, nn.Conv2d | nn.Linear)]
    assert len([name for name in weighty if "downsample" not in name]) == options.get("depth", 18)


def test_the_size_falls_as_in_the_paper() -> None:
    network = build(ResNetOptions(stem="large"), image(3, 64, 64))
    seen: dict[str, tuple[int, ...]] = {}

    def note(name: str) -> Any:
        return lambda _module, _inputs, output: seen.update({name: tuple(output.shape[1:])})

    for name in ("conv1", "layer1", "layer2", "layer3", "layer4"):
        network.get_submodule(name).register_forward_hook(note(name))
    assert network(torch.zeros(1, 3, 64, 64)).shape == (1, 3)
    assert seen == {  # 1/2, 1/4, 1/8, 1/16 and 1/32 of the image, as in table 1
        "conv1": (64, 32, 32),
        "layer1": (64, 16, 16),
        "layer2": (128, 8, 8),
        "layer3": (256, 4, 4),
        "layer4": (512, 2, 2),
    }


def _norm(values: Tensor, groups: int, weight: Tensor, bias: Tensor) -> Tensor:
    """Wu and He, ECCV 2018, equations 1 to 7, written out."""
    grouped = values.reshape(len(values), groups, -1)
    centred = grouped - grouped.mean(2, keepdim=True)
    scaled = centred / (centred.square().mean(2, keepdim=True) + 1e-5).sqrt()
    return scaled.reshape(values.shape) * weight[:, None, None] + bias[:, None, None]


@pytest.mark.parametrize("depth", [8, 18])
def test_it_computes_the_papers_blocks(depth: Any) -> None:
    """Oracle: the same sums with the network's weights, block by block."""
    torch.manual_seed(1)
    network, images = build(ResNetOptions(depth=depth, groups=4), image(3, 9, 8)), torch.rand(2, 3, 9, 8)
    weights = {name: parameter.detach() for name, parameter in network.named_parameters()}
    for name, weight in weights.items():
        if "bn" in name or "downsample.1" in name:
            weight.add_(0.1 * torch.randn_like(weight))

    def convolve(values: Tensor, name: str, stride: int = 1) -> Tensor:
        weight = weights[f"{name}.weight"]
        return functional.conv2d(values, weight, stride=stride, padding=weight.shape[-1] // 2)

    def norm(values: Tensor, name: str) -> Tensor:
        return _norm(values, 4, weights[f"{name}.weight"], weights[f"{name}.bias"])

    values = norm(convolve(images, "conv1"), "bn1").clamp(min=0)
    stages, blocks = (3, 1) if depth == 8 else (4, 2)
    for stage in range(1, stages + 1):
        for block in range(blocks):
            name, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            inner = norm(convolve(values, f"{name}.conv1", stride), f"{name}.bn1").clamp(min=0)
            inner = norm(convolve(inner, f"{name}.conv2"), f"{name}.bn2")
            if f"{name}.downsample.0.weight" in weights:
                values = norm(convolve(values, f"{name}.downsample.0", stride), f"{name}.downsample.1")
            elif stride == 2:
                padded = torch.zeros(inner.shape)
                quarter = values.shape[1] // 2
                padded[:, quarter : quarter + values.shape[1]] = values[:, :, ::2, ::2]
                values = padded
            values = (values + inner).clamp(min=0)
    expected = values.mean((2, 3)) @ weights["fc.weight"].T + weights["fc.bias"]
    torch.testing.assert_close(network(images), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"groups": 3}, "groups: found 3; allowed is a divisor of 64"),
        ({"depth": 20, "groups": 32}, "groups: found 32; allowed is a divisor of 16"),
        ({"depth": 20, "stem": "large"}, "stem: 'large' is for depth 18 and 34; depth is 20"),
    ],
)
def test_what_no_published_network_has_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check(ResNetOptions(**options), RGB)
    check(ResNetOptions(), RGB)
    check(ResNetOptions(depth=20, normalisation="batch", groups=7), RGB)


def test_only_groupnorm_suits_private_training_and_leaves_no_statistics() -> None:
    reason = ARCHITECTURES.find("resnet").unsuited_to_privacy
    assert reason(ResNetOptions()) == ""
    assert "normalisation = 'group'" in reason(ResNetOptions(normalisation="batch"))
    assert not list(build(ResNetOptions(depth=8), RGB).buffers())


def test_convolutions_start_as_he_et_al_say_and_the_seed_decides() -> None:
    torch.manual_seed(1)
    network = build(ResNetOptions(depth=20), RGB)
    weight = network.get_parameter("layer3.1.conv2.weight")
    assert float(weight.detach().std()) == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.02)
    assert bool((network.get_parameter("layer3.1.bn2.weight") == 1).all())
    assert shapes(network)["fc.weight"] == (10, 64)
    assert_the_seed_decides(lambda: build(ResNetOptions(depth=8), image(1, 8, 8)))


def test_the_gradient_reaches_every_parameter_and_it_learns() -> None:
    torch.manual_seed(1)
    images, labels = torch.rand(24, 1, 8, 8), torch.arange(24) % 3
    images[labels == 1, :, :4] += 0.5
    images[labels == 2, :, :, :4] += 0.5
    network = build(ResNetOptions(depth=8), image(1, 8, 8))
    assert_the_gradient_reaches_all(network, functional.cross_entropy(network(images), labels))
    loss = fit(network.parameters(), lambda: functional.cross_entropy(network(images), labels), steps=15, rate=0.005)
    assert loss < 0.2  # guessing gives 1.1
