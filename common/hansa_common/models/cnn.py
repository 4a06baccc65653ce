"""The shared CNN: the convolutional network of the TensorFlow tutorial "Convolutional Neural Network (CNN)".

conv 3x3 32, ReLU, max-pool 2; conv 3x3 64, ReLU, max-pool 2; conv 3x3 64, ReLU; flatten; dense 64, ReLU; dense K.
122,570 parameters for 3x32x32 images and 10 classes. Initialised as there: Glorot uniform weights, zero biases.
"""

from collections import OrderedDict
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from hansa_common.contract import outputs
from hansa_common.models.initialisation import glorot
from hansa_common.models.registry import ARCHITECTURES, Architecture, Contract
from hansa_common.settings import Strict

if TYPE_CHECKING:
    from torch import nn

Width = Annotated[int, Field(ge=1, le=4096)]


class CNNOptions(Strict):
    """Options of the shared CNN; the defaults are the tutorial's."""

    filters: tuple[Width, Width, Width] = (32, 64, 64)
    dense: Width = 64


def _spatial(size: int) -> int:
    """Return height or width after conv, pool, conv, pool, conv, all 3x3 without padding."""
    return ((size - 2) // 2 - 2) // 2 - 2


def check(options: CNNOptions, contract: Contract) -> None:
    """Refuse images that vanish on their way through the three convolutions."""
    del options
    _channels, height, width = contract.feature_shape
    if min(_spatial(height), _spatial(width)) < 1:
        raise ValueError(f"images of {height}x{width} are too small for three 3x3 convolutions; the least is 18x18.")


def build(options: CNNOptions, contract: Contract) -> "nn.Module":
    """Return the network: ``float32 [N, C, H, W]`` to ``[N, outputs]``."""
    from torch import nn

    channels, height, width = contract.feature_shape
    first, second, third = options.filters
    network = nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(channels, first, 3),
            pool1=nn.MaxPool2d(2),  # before ReLU: the same function, on a quarter of the values
            relu1=nn.ReLU(),
            conv2=nn.Conv2d(first, second, 3),
            pool2=nn.MaxPool2d(2),
            relu2=nn.ReLU(),
            conv3=nn.Conv2d(second, third, 3),
            relu3=nn.ReLU(),
            flatten=nn.Flatten(),
            dense1=nn.Linear(third * _spatial(height) * _spatial(width), options.dense),
            relu4=nn.ReLU(),
            dense2=nn.Linear(options.dense, outputs(contract)),
        )
    )
    glorot(network)
    return network


ARCHITECTURES.register("cnn")(
    Architecture(options=CNNOptions, accepts=frozenset({"image"}), build=build, check=check),
)
