import pytest
import torch
from tests.unit.common.models.model_checks import assert_the_gradient_reaches_all, assert_the_seed_decides, shapes, size
from torch.nn import functional

from hansa_common.contract import ImageContract
from hansa_common.models.lenet import LeNetOptions, build, check


def _images(channels: int = 3, height: int = 32, width: int = 32, classes: int = 10) -> ImageContract:
    return ImageContract(
        kind="image", channels=channels, height=height, width=width, classes=tuple(f"c{k}" for k in range(classes))
    )


def test_the_benchmark_s_network_has_62006_parameters() -> None:
    network = build(LeNetOptions(), _images())
    assert shapes(network) == {
        "conv1.weight": (6, 3, 5, 5),
        "conv1.bias": (6,),
        "conv2.weight": (16, 6, 5, 5),
        "conv2.bias": (16,),
        "dense1.weight": (120, 400),
        "dense1.bias": (120,),
        "dense2.weight": (84, 120),
        "dense2.bias": (84,),
        "dense3.weight": (10, 84),
        "dense3.bias": (10,),
    }
    assert size(network) == 62_006
    assert size(build(LeNetOptions(), _images(1, 28, 28))) == 44_426  # on MNIST, as published for LeNet-5


def test_it_computes_the_published_function() -> None:
    """Oracle: NIID-Bench's order of layers, ReLU before pooling, with the network's own weights."""
    torch.manual_seed(3)
    network, images = build(LeNetOptions(), _images()), torch.rand(4, 3, 32, 32)
    weights = dict(network.named_parameters())
    values = images
    for name in ("conv1", "conv2"):
        values = functional.conv2d(values, weights[f"{name}.weight"], weights[f"{name}.bias"])
        values = functional.max_pool2d(functional.relu(values), 2)
    values = values.flatten(1)
    for name in ("dense1", "dense2"):
        values = functional.relu(functional.linear(values, weights[f"{name}.weight"], weights[f"{name}.bias"]))
    torch.testing.assert_close(
        network(images), functional.linear(values, weights["dense3.weight"], weights["dense3.bias"])
    )


def test_the_gradient_reaches_every_parameter_and_the_seed_decides() -> None:
    torch.manual_seed(1)
    network = build(LeNetOptions(), _images())
    answers = network(torch.rand(32, 3, 32, 32))
    assert_the_gradient_reaches_all(network, functional.cross_entropy(answers, torch.arange(32) % 10))
    assert_the_seed_decides(lambda: build(LeNetOptions(), _images()))


@pytest.mark.parametrize(("height", "width"), [(15, 32), (32, 15), (1, 1)])
def test_images_that_would_vanish_are_refused(height: int, width: int) -> None:
    with pytest.raises(ValueError, match=f"images of {height}x{width} are too small .* least is 16x16"):
        check(LeNetOptions(), _images(height=height, width=width))
    check(LeNetOptions(), _images(height=16, width=16))
