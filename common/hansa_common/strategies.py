"""What an aggregation strategy asks of the sites: known here, because a site reads its plan without the server's code.

The rule itself is one file of ``hansa_server.strategies``. A test holds that both name the same strategies.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Final, Literal

from pydantic import Field

from hansa_common.settings import Strict

Needs = Literal["sum", "all"]


class FedProxOptions(Strict):
    """Options of federated averaging with a proximal term."""

    mu: Annotated[float, Field(ge=0.0, le=1e6)] = 0.01
    """Weight of half the squared distance to the round's incoming model in a site's loss; 0 is federated averaging."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """One strategy, as a site sees it.

    Attributes:
        needs: The weighted sum of the updates is enough, or the rule must see every update by itself.
        training_loss: A site also tells the loss of the incoming model on its training split.
        site_options: The keys beside ``strategy`` where the sites read them too; ``None`` where only the server does.
        carried: How many vectors of the model's size travel and are stepped together, the model first.
        keeps_state: A site needs something of its own from its last round.
    """

    needs: Needs
    training_loss: bool = False
    site_options: type[Strict] | None = None
    carried: int = 1
    keeps_state: bool = False


STRATEGIES: Final[Mapping[str, Traits]] = {
    "fedavg": Traits(needs="sum"),
    "fedprox": Traits(needs="sum", site_options=FedProxOptions),
    "scaffold": Traits(needs="sum", carried=2, keeps_state=True),
}
