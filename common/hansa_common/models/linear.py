"""Linear regression: one linear layer to one number, initialised with zeros (the squared error is convex)."""

from collections import OrderedDict
from typing import TYPE_CHECKING

from hansa_common.contract import feature_count
from hansa_common.models.registry import ARCHITECTURES, Architecture, Contract
from hansa_common.settings import Strict

if TYPE_CHECKING:
    from torch import nn


class LinearOptions(Strict):
    """Linear regression has no options."""


def build(options: LinearOptions, contract: Contract) -> "nn.Module":
    """Return the model: ``float32 [N, ...]`` to predictions ``[N, 1]``."""
    from torch import nn

    del options
    linear = nn.Linear(feature_count(contract), 1)
    for parameter in linear.parameters():
        nn.init.zeros_(parameter)
    return nn.Sequential(OrderedDict(flatten=nn.Flatten(), linear=linear))


ARCHITECTURES.register("linear")(
    Architecture(
        options=LinearOptions,
        accepts=frozenset({"image", "array", "table"}),
        build=build,
        learns=frozenset({"number"}),
    )
)
