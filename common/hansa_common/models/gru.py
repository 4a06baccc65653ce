"""GRU: a recurrent network with gates, over an array of steps (Cho et al., EMNLP 2014, equations 5 to 8).

In the form that cuDNN and PyTorch compute, where the reset gate acts after the recurrent product.
"""

from typing import TYPE_CHECKING

from hansa_common.models.recurrent import RecurrentOptions, build_recurrent, check, unsuited_to_privacy
from hansa_common.models.registry import ARCHITECTURES, Architecture, Contract

if TYPE_CHECKING:
    from torch import nn


class GRUOptions(RecurrentOptions):
    """Options of the GRU."""


def build(options: GRUOptions, contract: Contract) -> "nn.Module":
    """Return the network: ``float32 [N, T, F]`` or ``[N, T]`` to ``[N, outputs]``."""
    return build_recurrent("gru", options, contract)


ARCHITECTURES.register("gru")(
    Architecture(
        options=GRUOptions,
        accepts=frozenset({"array"}),
        build=build,
        check=check,
        unsuited_to_privacy=unsuited_to_privacy,
    )
)
