import math

import pytest
import torch
from torch.nn import functional as f

from hansa_common.contract import ImageContract
from hansa_common.models import ARCHITECTURES
from hansa_common.models.cnn import CNNOptions, build, check


def _contract(channels: int = 3, height: int = 32, width: int = 32, classes: int = 10) -> ImageContract:
    return ImageContract(
        kind="image", channels=channels, height=height, width=width, classes=tuple(f"c{k}" for k in range(classes))
    )


def test_the_tutorial_s_network_has_122570_parameters() -> None:
    network = build(CNNOptions(), _contract())
    assert {name: tuple(parameter.shape) for name, parameter in network.named_parameters()} == {
        "conv1.weight": (32, 3, 3, 3),
        "conv1.bias": (32,),
        "conv2.weight": (64, 32, 3, 3),
        "conv2.bias": (64,),
        "conv3.weight": (64, 64, 3, 3),
        "conv3.bias": (64,),
        "dense1.weight": (64, 1_024),
        "dense1.bias": (64,),
        "dense2.weight": (10, 64),
        "dense2.bias": (10,),
    }
    assert sum(parameter.numel() for parameter in network.parameters()) == 122_570
    assert not list(network.buffers())


def test_the_output_of_each_layer_is_the_tutorial_s() -> None:
    network, shapes, values = build(CNNOptions(), _contract()), {}, torch.zeros(2, 3, 32, 32)
    for name, layer in network.named_children():
        values = layer(values)
        shapes[name] = tuple(values.shape[1:])
    assert [shapes[name] for name in ("conv1", "pool1", "conv2", "pool2", "conv3", "flatten", "dense1", "dense2")] == [
        (32, 30, 30),
        (32, 15, 15),
        (64, 13, 13),
        (64, 6, 6),
        (64, 4, 4),
        (1_024,),
        (64,),
        (10,),
    ]
    kinds = [type(layer).__name__ for layer in network.children()]
    assert kinds == [*["Conv2d", "MaxPool2d", "ReLU"] * 2, "Conv2d", "ReLU", "Flatten", "Linear", "ReLU", "Linear"]


@pytest.mark.parametrize(
    ("contract", "parameters"),
    [
        (_contract(1, 28, 28), 320 + 18_496 + 36_928 + 36_928 + 650),
        (_contract(1, 18, 18, 2), 320 + 18_496 + 36_928 + 4_160 + 130),
        (_contract(4, 40, 24, 3), 1_184 + 18_496 + 36_928 + 49_216 + 195),
    ],
)
def test_other_sizes_channels_and_classes(contract: ImageContract, parameters: int) -> None:
    network = build(CNNOptions(), contract)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    assert network(torch.zeros(5, *contract.feature_shape)).shape == (5, len(contract.classes))


def test_options_set_the_widths() -> None:
    network = build(CNNOptions(filters=(4, 5, 6), dense=7), _contract())
    shapes = [tuple(parameter.shape) for name, parameter in network.named_parameters() if name.endswith("weight")]
    assert shapes == [(4, 3, 3, 3), (5, 4, 3, 3), (6, 5, 3, 3), (7, 96), (10, 7)]


@pytest.mark.parametrize(("height", "width"), [(17, 32), (32, 17), (1, 1), (4, 4)])
def test_images_that_would_vanish_are_refused(height: int, width: int) -> None:
    with pytest.raises(ValueError, match=f"images of {height}x{width} are too small .* least is 18x18"):
        check(CNNOptions(), _contract(height=height, width=width))


def test_the_least_image_passes() -> None:
    check(CNNOptions(), _contract(height=18, width=18))
    assert build(CNNOptions(), _contract(height=18, width=18))(torch.zeros(1, 3, 18, 18)).shape == (1, 10)


def test_weights_are_glorot_uniform_and_biases_zero() -> None:
    torch.manual_seed(1)
    for name, parameter in build(CNNOptions(), _contract()).named_parameters():
        if name.endswith("bias"):
            assert not parameter.any()
            continue
        receptive = math.prod(parameter.shape[2:])
        bound = math.sqrt(6 / (receptive * (parameter.shape[0] + parameter.shape[1])))  # Glorot and Bengio, eq. 16
        values = parameter.detach()
        assert float(values.abs().max()) <= bound
        assert float(values.abs().max()) > 0.95 * bound
        assert float(values.std()) == pytest.approx(bound / math.sqrt(3), rel=0.06)


def test_the_seed_decides_the_weights() -> None:
    def first_weights(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return next(build(CNNOptions(), _contract()).parameters()).detach()

    assert torch.equal(first_weights(3), first_weights(3))
    assert not torch.equal(first_weights(3), first_weights(4))


def test_a_plan_finds_it_for_images_only() -> None:
    architecture = ARCHITECTURES.find("cnn")
    assert architecture.accepts == {"image"}
    assert architecture.options is CNNOptions


def test_pooling_before_relu_is_the_tutorials_function() -> None:
    """Oracle: the tutorial's order, ReLU before pooling, written out with the network's own weights."""
    torch.manual_seed(3)
    network = build(CNNOptions(), _contract())
    weights = dict(network.named_parameters())
    images = torch.rand(4, 3, 32, 32)

    def convolve(values: torch.Tensor, name: str) -> torch.Tensor:
        return f.relu(f.conv2d(values, weights[f"{name}.weight"], weights[f"{name}.bias"]))

    values = f.max_pool2d(convolve(images, "conv1"), 2)
    values = f.max_pool2d(convolve(values, "conv2"), 2)
    values = convolve(values, "conv3").flatten(1)
    values = f.relu(f.linear(values, weights["dense1.weight"], weights["dense1.bias"]))
    values = f.linear(values, weights["dense2.weight"], weights["dense2.bias"])
    assert torch.equal(network(images), values)
