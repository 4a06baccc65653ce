"""What the two recurrent architectures share: options, checks, and how they are built; see ``gru`` and ``lstm``."""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from hansa_common.contract import outputs
from hansa_common.models.registry import Contract
from hansa_common.models.sequence import check_sequence, steps_and_features
from hansa_common.settings import Strict

if TYPE_CHECKING:
    from torch import nn

Width = Annotated[int, Field(ge=1, le=4096)]


class RecurrentOptions(Strict):
    """Options of GRU and LSTM."""

    hidden: Width = 64
    """Width of the state, of each direction."""
    layers: Annotated[int, Field(ge=1, le=8)] = 1
    bidirectional: bool = False
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Between the layers and before the output."""
    pooling: Literal["last", "mean"] = "last"
    """What the output reads: the state after the last step (of each direction its own), or the mean over the steps."""
    vocabulary: Annotated[int, Field(ge=2, le=1_000_000)] | None = None
    """The array holds token ids 0 to V - 1, as whole numbers; each has an embedding."""
    embedding: Width = 32
    """Width of an embedding, with ``vocabulary``."""


def check(options: RecurrentOptions, contract: Contract) -> None:
    """Refuse arrays that are no sequence."""
    check_sequence(contract, options.vocabulary)


def unsuited_to_privacy(options: RecurrentOptions) -> str:
    """Say why PyTorch's recurrent layers have no gradient of one example."""
    del options
    return "PyTorch computes a recurrent layer as a whole, without the gradient of one example alone"


def build_recurrent(cell: Literal["gru", "lstm"], options: RecurrentOptions, contract: Contract) -> "nn.Module":
    """Return the network: ``float32 [N, T, F]`` or ``[N, T]`` to ``[N, outputs]``."""
    from hansa_common.models.networks.recurrent import Recurrent

    return Recurrent(
        cell=cell,
        features=steps_and_features(contract)[1],
        hidden=options.hidden,
        layers=options.layers,
        bidirectional=options.bidirectional,
        dropout=options.dropout,
        pooling=options.pooling,
        vocabulary=options.vocabulary,
        embedding=options.embedding,
        outputs=outputs(contract),
    )
