"""Logistic regression: one linear layer (the loss is convex), multinomial or, for two classes, with one output.

For two classes both forms describe the same models, but a step of gradient descent moves the difference of the two
softmax logits twice as far as the one sigmoid logit: published results with one output (Fed-Heart-Disease of FLamby,
du Terrail et al., NeurIPS 2022) are reproduced with ``outputs = "sigmoid"``. The cross-entropy of the logits
``(0, z)`` is the binary cross-entropy of ``z``.
"""

from collections import OrderedDict
from typing import TYPE_CHECKING, Literal

from hansa_common.contract import feature_count, outputs
from hansa_common.models.registry import ARCHITECTURES, Architecture, Contract
from hansa_common.settings import Strict

if TYPE_CHECKING:
    from torch import nn

_BINARY = 2  # classes


class LogisticOptions(Strict):
    """Options of logistic regression."""

    outputs: Literal["softmax", "sigmoid"] = "softmax"
    """``sigmoid``: one logit, that of the second class; for two classes."""
    initial: Literal["zeros", "uniform"] = "zeros"
    """``uniform``: between plus and minus 1 / sqrt(features), as PyTorch starts a linear layer."""


def check(options: LogisticOptions, contract: Contract) -> None:
    """Refuse one output for other than two classes."""
    if options.outputs == "sigmoid" and (count := outputs(contract)) != _BINARY:
        raise ValueError(f"outputs = 'sigmoid' is for two classes; the contract has {count}.")


def build(options: LogisticOptions, contract: Contract) -> "nn.Module":
    """Return the model: ``float32 [N, ...]`` to ``[N, outputs]``."""
    from torch import nn

    sigmoid = options.outputs == "sigmoid"
    linear = nn.Linear(feature_count(contract), 1 if sigmoid else outputs(contract))
    if options.initial == "zeros":
        for parameter in linear.parameters():
            nn.init.zeros_(parameter)
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten(), linear=linear)
    if sigmoid:
        layers["reference"] = nn.ConstantPad1d((1, 0), 0.0)  # the first class's logit is 0: [N, 1] -> [N, 2]
    return nn.Sequential(layers)


ARCHITECTURES.register("logistic")(
    Architecture(
        options=LogisticOptions,
        accepts=frozenset({"image", "array", "table"}),
        build=build,
        check=check,
        learns=frozenset({"classes"}),
    )
)
