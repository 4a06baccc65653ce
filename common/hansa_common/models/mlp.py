"""Multilayer perceptron: dense layers with one activation between them, over all features of an example.

Initialised as the shared CNN: Glorot uniform weights (Glorot and Bengio, AISTATS 2010, equation 16), zero biases.
"""

from collections import OrderedDict
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from hansa_common.contract import feature_count, outputs
from hansa_common.models.initialisation import glorot
from hansa_common.models.outputs import PREDICTED
from hansa_common.models.registry import ARCHITECTURES, Architecture, Contract
from hansa_common.settings import Strict

if TYPE_CHECKING:
    from torch import nn

Width = Annotated[int, Field(ge=1, le=16_384)]


class MLPOptions(Strict):
    """Options of the multilayer perceptron."""

    hidden: Annotated[tuple[Width, ...], Field(min_length=1, max_length=16)] = (128,)
    activation: Literal["relu", "tanh"] = "relu"


def build(options: MLPOptions, contract: Contract) -> "nn.Module":
    """Return the network: ``float32 [N, ...]`` to ``[N, outputs]``."""
    from torch import nn

    activation = {"relu": nn.ReLU, "tanh": nn.Tanh}[options.activation]
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    inputs = feature_count(contract)
    for number, width in enumerate(options.hidden, start=1):
        layers[f"dense{number}"] = nn.Linear(inputs, width)
        layers[f"{options.activation}{number}"] = activation()
        inputs = width
    layers[f"dense{len(options.hidden) + 1}"] = nn.Linear(inputs, outputs(contract))
    network = nn.Sequential(layers)
    glorot(network)
    return network


ARCHITECTURES.register("mlp")(
    Architecture(
        options=MLPOptions,
        accepts=frozenset({"image", "array", "table"}),
        build=build,
        learns=PREDICTED | {"reconstruction"},  # an autoencoder, whose code is its narrowest layer
    )
)
