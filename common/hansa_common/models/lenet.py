"""LeNet for small images: the network of LeCun et al. 1998 with ReLU and max-pooling, as NIID-Bench has it.

conv 5x5 6, ReLU, max-pool 2; conv 5x5 16, ReLU, max-pool 2; flatten; dense 120, ReLU; dense 84, ReLU; dense K. 62,006
parameters for 3x32x32 images and 10 classes (Li et al., "Federated Learning on Non-IID Data Silos: An Experimental
Study", ICDE 2022). Initialised as there: PyTorch's own uniform weights and biases.
"""

from collections import OrderedDict
from typing import TYPE_CHECKING

from hansa_common.contract import outputs
from hansa_common.models.registry import ARCHITECTURES, Architecture, Contract
from hansa_common.settings import Strict

if TYPE_CHECKING:
    from torch import nn


class LeNetOptions(Strict):
    """LeNet has no options."""


def _spatial(size: int) -> int:
    """Return height or width after conv, pool, conv, pool, the convolutions 5x5 without padding."""
    return ((size - 4) // 2 - 4) // 2


def check(options: LeNetOptions, contract: Contract) -> None:
    """Refuse images that vanish on their way through the two convolutions."""
    del options
    _channels, height, width = contract.feature_shape
    if min(_spatial(height), _spatial(width)) < 1:
        raise ValueError(f"images of {height}x{width} are too small for two 5x5 convolutions; the least is 16x16.")


def build(options: LeNetOptions, contract: Contract) -> "nn.Module":
    """Return the network: ``float32 [N, C, H, W]`` to ``[N, outputs]``."""
    from torch import nn

    del options
    channels, height, width = contract.feature_shape
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(channels, 6, 5),
            pool1=nn.MaxPool2d(2),  # before ReLU: the same function, on a quarter of the values
            relu1=nn.ReLU(),
            conv2=nn.Conv2d(6, 16, 5),
            pool2=nn.MaxPool2d(2),
            relu2=nn.ReLU(),
            flatten=nn.Flatten(),
            dense1=nn.Linear(16 * _spatial(height) * _spatial(width), 120),
            relu3=nn.ReLU(),
            dense2=nn.Linear(120, 84),
            relu4=nn.ReLU(),
            dense3=nn.Linear(84, outputs(contract)),
        )
    )


ARCHITECTURES.register("lenet")(
    Architecture(options=LeNetOptions, accepts=frozenset({"image"}), build=build, check=check),
)
