"""A small transformer encoder, for text by token ids, for sequences, and for tables by one token a feature.

Vaswani et al., "Attention Is All You Need", NeurIPS 2017, section 3.1, with the normalisation in front of each part
(Xiong et al., ICML 2020, figure 1b) and the mean over the tokens as what the output reads. Tables as in the
FT-Transformer (Gorishniy et al., "Revisiting Deep Learning Models for Tabular Data", NeurIPS 2021, section 3.3): a
feature j with value x becomes ``x * w_j + b_j``.
"""

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from hansa_common.contract import outputs
from hansa_common.models.registry import ARCHITECTURES, Architecture, Contract
from hansa_common.models.sequence import check_sequence, steps_and_features
from hansa_common.settings import Strict

if TYPE_CHECKING:
    from torch import nn

Width = Annotated[int, Field(ge=1, le=16_384)]


class TransformerOptions(Strict):
    """Options of the transformer encoder."""

    width: Width = 64
    """Of each token; a multiple of ``heads``."""
    layers: Annotated[int, Field(ge=1, le=64)] = 2
    heads: Annotated[int, Field(ge=1, le=64)] = 4
    feedforward: Width = 128
    """Width between the two dense layers of each block."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """After attention and after the dense layers of each block."""
    vocabulary: Annotated[int, Field(ge=2, le=1_000_000)] | None = None
    """The array holds token ids 0 to V - 1, as whole numbers; each has an embedding."""


def check(options: TransformerOptions, contract: Contract) -> None:
    """Refuse widths that the heads do not divide, and arrays that are no sequence."""
    if options.width % options.heads:
        raise ValueError(f"width: found {options.width}; allowed is a multiple of heads, which is {options.heads}.")
    check_sequence(contract, options.vocabulary)


def build(options: TransformerOptions, contract: Contract) -> "nn.Module":
    """Return the network: ``float32 [N, T, F]``, ``[N, T]`` or a table ``[N, F]`` to ``[N, outputs]``."""
    from hansa_common.models.networks import encoder

    width = options.width
    steps, features = steps_and_features(contract)
    tokens: nn.Module
    if contract.kind == "table":
        tokens = encoder.FeatureTokens(steps, width)  # of a table [F]
    elif options.vocabulary is not None:
        tokens = encoder.PositionedTokens(encoder.TokenIds(options.vocabulary, width), steps, width)
    else:
        tokens = encoder.PositionedTokens(encoder.StepTokens(features, width), steps, width)
    return encoder.Encoder(
        tokens=tokens,
        width=width,
        layers=options.layers,
        heads=options.heads,
        feedforward=options.feedforward,
        dropout=options.dropout,
        outputs=outputs(contract),
    )


ARCHITECTURES.register("transformer")(
    Architecture(options=TransformerOptions, accepts=frozenset({"array", "table"}), build=build, check=check)
)
