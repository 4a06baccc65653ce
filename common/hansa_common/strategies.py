"""What an aggregation strategy asks of the sites: known here, because a site reads its plan without the server's code.

The rule itself is one file of ``hansa_server.strategies``, with the options that only the server needs. A test holds
that both name the same strategies.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Final, Literal

from pydantic import Field

from hansa_common.registry import suggest
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
        carried: How many vectors of the model's size travel and are stepped together, the model first.
        keeps_state: A site needs something of its own from its last round.
        sgd_only: The rule is derived from steps of SGD, with or without momentum; no other optimiser goes with it.
        weighs_steps: The rule weighs a site's update by its number of optimiser steps.
        options: Where a site needs to know them; ``None`` where the server alone checks them.
    """

    needs: Needs
    training_loss: bool = False
    carried: int = 1
    keeps_state: bool = False
    sgd_only: bool = False
    weighs_steps: bool = False
    options: type[Strict] | None = None


STRATEGIES: Final[Mapping[str, Traits]] = {
    "afl": Traits(needs="all", training_loss=True),
    "fedadagrad": Traits(needs="sum"),
    "fedadam": Traits(needs="sum"),
    "fedavg": Traits(needs="sum"),
    "fedavgm": Traits(needs="sum"),
    "fednova": Traits(needs="all", sgd_only=True, weighs_steps=True),
    "fedprox": Traits(needs="sum", options=FedProxOptions),
    "fedyogi": Traits(needs="sum"),
    "qffl": Traits(needs="all", training_loss=True),
    "scaffold": Traits(needs="sum", carried=2, keeps_state=True, sgd_only=True),
}


def traits_of(strategy: str, *, optimizer: str) -> Traits:
    """Return the traits of the strategy that a plan names.

    Args:
        strategy: Its name.
        optimizer: Of the sites' training.

    Raises:
        ValueError: There is none of that name, or it does not go with the optimiser; the text starts with the key.
    """
    if (traits := STRATEGIES.get(strategy)) is None:
        raise ValueError(
            f"aggregation.strategy: There is no aggregation strategy named '{strategy}'. "
            f"{suggest(strategy, sorted(STRATEGIES))}"
        )
    if traits.sgd_only and optimizer != "sgd":
        raise ValueError(
            f"training.optimizer: found '{optimizer}'; allowed is 'sgd' with aggregation.strategy = '{strategy}', "
            "whose rule is derived from its steps."
        )
    return traits


def require_plain_sgd(training: Mapping[str, object]) -> None:
    """Refuse what else moves a model: SCAFFOLD's sites work out their mean gradient from where plain SGD led.

    Args:
        training: The keys of ``[training]``.

    Raises:
        ValueError: There is more than SGD at one learning rate; the text starts with the key.
    """
    plain = {"optimizer": "sgd", "momentum": 0.0, "schedule": "constant", "warmup_rounds": 0, "gradient_clip": None}
    for key, allowed in plain.items():
        if training[key] != allowed:
            raise ValueError(
                f"training.{key}: found {training[key]!r}; aggregation.strategy = 'scaffold' corrects plain SGD at one "
                f"learning rate, so allowed is {'no such key' if allowed is None else repr(allowed)}."
            )
