"""A one-dimensional CNN for signals: convolutions over time, each with ReLU and max-pooling, then two dense layers.

The shared CNN's scheme on arrays ``[T, F]`` (or ``[T]``, one channel), as used for vibration and engine signals (Li,
Ding, Sun, "Remaining useful life estimation in prognostics using deep convolution neural networks", Reliability
Engineering and System Safety 172, 2018). Initialised with Glorot uniform weights, zero biases.
"""

from collections import OrderedDict
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from hansa_common.contract import outputs
from hansa_common.models.initialisation import glorot
from hansa_common.models.registry import ARCHITECTURES, Architecture, Contract
from hansa_common.models.sequence import check_sequence, steps_and_features
from hansa_common.settings import Strict

if TYPE_CHECKING:
    from torch import nn

Width = Annotated[int, Field(ge=1, le=4096)]


class CNN1DOptions(Strict):
    """Options of the CNN for signals."""

    filters: Annotated[tuple[Width, ...], Field(min_length=1, max_length=16)] = (32, 64, 64)
    kernel: Annotated[int, Field(ge=1, le=255)] = 5
    """Steps that a convolution sees, odd; the ends are padded with zeros."""
    pool: Annotated[int, Field(ge=1, le=64)] = 2
    """Steps that max-pooling joins after each convolution."""
    dense: Width = 64
    layout: Literal["time_first", "channels_first"] = "time_first"
    """Whether an example is ``[T, C]`` or ``[C, T]``."""


def _length_and_channels(options: CNN1DOptions, contract: Contract) -> tuple[int, int]:
    first, second = steps_and_features(contract)
    is_transposed = options.layout == "channels_first" and len(contract.feature_shape) > 1
    return (second, first) if is_transposed else (first, second)


def check(options: CNN1DOptions, contract: Contract) -> None:
    """Refuse arrays that are no signal, and signals that vanish on their way."""
    check_sequence(contract, None)
    if options.kernel % 2 == 0:
        raise ValueError(f"kernel: found {options.kernel}; allowed is an odd number.")
    length, _ = _length_and_channels(options, contract)
    least = options.pool ** len(options.filters)
    if length < least:
        raise ValueError(
            f"signals of {length} steps are too short for {len(options.filters)} poolings by {options.pool}; the least "
            f"is {least}."
        )


def build(options: CNN1DOptions, contract: Contract) -> "nn.Module":
    """Return the network: ``float32 [N, T, C]``, ``[N, C, T]`` or ``[N, T]`` to ``[N, outputs]``."""
    from torch import nn

    from hansa_common.models.networks.layout import ChannelsFirst

    length, channels = _length_and_channels(options, contract)
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        layout=ChannelsFirst(is_time_first=options.layout == "time_first")
    )
    for number, filters in enumerate(options.filters, start=1):
        layers[f"conv{number}"] = nn.Conv1d(channels, filters, options.kernel, padding=options.kernel // 2)
        layers[f"pool{number}"] = nn.MaxPool1d(options.pool)
        layers[f"relu{number}"] = nn.ReLU()
        length, channels = length // options.pool, filters
    layers["flatten"] = nn.Flatten()
    layers["dense1"] = nn.Linear(channels * length, options.dense)
    layers[f"relu{len(options.filters) + 1}"] = nn.ReLU()
    layers["dense2"] = nn.Linear(options.dense, outputs(contract))
    network = nn.Sequential(layers)
    glorot(network)
    return network


ARCHITECTURES.register("cnn1d")(
    Architecture(options=CNN1DOptions, accepts=frozenset({"array"}), build=build, check=check)
)
