"""Multinomial logistic regression: one linear layer, initialised with zeros (the loss is convex)."""

from collections import OrderedDict
from typing import TYPE_CHECKING

from hansa_common.contract import feature_count, outputs
from hansa_common.models.registry import ARCHITECTURES, Architecture, Contract
from hansa_common.settings import Strict

if TYPE_CHECKING:
    from torch import nn


class LogisticOptions(Strict):
    """Logistic regression has no options."""


def build(options: LogisticOptions, contract: Contract) -> "nn.Module":
    """Return the model: ``float32 [N, ...]`` to ``[N, outputs]``."""
    from torch import nn

    del options
    linear = nn.Linear(feature_count(contract), outputs(contract))
    for parameter in linear.parameters():
        nn.init.zeros_(parameter)
    return nn.Sequential(OrderedDict(flatten=nn.Flatten(), linear=linear))


ARCHITECTURES.register("logistic")(
    Architecture(options=LogisticOptions, accepts=frozenset({"image", "array", "table"}), build=build)
)
