"""What an aggregation strategy asks of the sites: known here, because a site reads its plan without the server's code.

The rule itself is one file of ``hansa_server.strategies``. A test holds that both name the same strategies.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

Needs = Literal["sum", "all"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """One strategy, as a site sees it.

    Attributes:
        needs: The weighted sum of the updates is enough, or the rule must see every update by itself.
        training_loss: A site also tells the loss of the incoming model on its training split.
    """

    needs: Needs
    training_loss: bool = False


STRATEGIES: Final[Mapping[str, Traits]] = {
    "fedavg": Traits(needs="sum"),
}
