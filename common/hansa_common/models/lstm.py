"""LSTM: a recurrent network with a memory cell, over an array of steps.

Hochreiter and Schmidhuber, "Long Short-Term Memory", Neural Computation 9 (1997), with the forget gate of Gers et al.
(2000), whose bias starts at 1 (Jozefowicz et al., ICML 2015, section 2.2).
"""

from typing import TYPE_CHECKING

from hansa_common.models.recurrent import RecurrentOptions, build_recurrent, check, unsuited_to_privacy
from hansa_common.models.registry import ARCHITECTURES, Architecture, Contract

if TYPE_CHECKING:
    from torch import nn


class LSTMOptions(RecurrentOptions):
    """Options of the LSTM."""


def build(options: LSTMOptions, contract: Contract) -> "nn.Module":
    """Return the network: ``float32 [N, T, F]`` or ``[N, T]`` to ``[N, outputs]``."""
    return build_recurrent("lstm", options, contract)


ARCHITECTURES.register("lstm")(
    Architecture(
        options=LSTMOptions,
        accepts=frozenset({"array"}),
        build=build,
        check=check,
        unsuited_to_privacy=unsuited_to_privacy,
    )
)
