"""What an aggregation strategy asks of the sites: known here, because a site reads its plan without the server's code.

The rule itself is one file of ``hansa_server.strategies``, with the options that only the server needs. A test holds
that both name the same strategies.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Final, Literal, Self

from pydantic import Field, model_validator

from hansa_common.registry import suggest
from hansa_common.settings import Strict

Needs = Literal["sum", "all"]

Hostile = Annotated[int, Field(ge=0, le=100_000)] | Annotated[float, Field(gt=0.0, lt=0.5)]
"""How many sites a rule withstands: their number, or their share of those that deliver in a round, rounded up."""


class FLTrustOptions(Strict):
    """Options of FLTrust; the sites see whom the others' updates are held against."""

    root: Annotated[str, Field(min_length=1, max_length=64)]
    """Name of the trusted site."""
    hostile: Hostile | None = None
    nnm: bool = False

    @model_validator(mode="after")
    def _mixing_needs_a_number(self) -> Self:
        require_hostile(self.hostile, nnm=self.nnm)
        return self

    def check_root(self, *lists: Sequence[str], sites_per_round: int | None) -> None:
        """Hold the trusted site against the lists of names that a plan has, and those that may be left out of a round.

        Raises:
            ValueError: It is not in one of them, or may be left out; the text starts with the key.
        """
        for names in lists:
            if names and self.root not in names:
                raise ValueError(f"aggregation.root: {suggest(self.root, sorted(names))} Found '{self.root}'.")
        if sites_per_round is not None:
            raise ValueError(
                "rounds.sites_per_round: aggregation.strategy = 'fltrust' needs the trusted site in every round; leave "
                "this key out."
            )


def require_hostile(hostile: float | None, *, nnm: bool) -> None:
    """Refuse nearest-neighbour mixing without a number of hostile sites.

    Raises:
        ValueError: There is none.
    """
    if nnm and hostile is None:
        raise ValueError("hostile: this key is required with nnm = true, and missing: how many sites may be hostile?")


Mu = Annotated[float, Field(ge=0.0, le=1e6)]
"""Weight of half the squared distance to the round's incoming model in a site's loss; 0 is none."""


class FedProxOptions(Strict):
    """Options of federated averaging with a proximal term."""

    mu: Mu = 0.01


class FedNovaOptions(Strict):
    """Options of normalised averaging: steps come with the updates, the rest from the plan's training."""

    mu: Mu = 0.0


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
        second_order: A site does not train: its update is its loss, gradient and Hessian at the incoming model, see
            ``hansa_common.curvature``.
        options: Where a site needs to know them; ``None`` where the server alone checks them.
    """

    needs: Needs
    training_loss: bool = False
    carried: int = 1
    keeps_state: bool = False
    sgd_only: bool = False
    weighs_steps: bool = False
    second_order: bool = False
    options: type[Strict] | None = None

    def update_size(self, parameters: int) -> int:
        """Return how many values an update to a model of ``parameters`` has."""
        return curvature_values(parameters) if self.second_order else self.carried * parameters


def curvature_values(parameters: int) -> int:
    """Return ``2 V``: loss, gradient and a triangle of the Hessian, in two parts each."""
    return 2 * (1 + parameters + parameters * (parameters + 1) // 2)


STRATEGIES: Final[Mapping[str, Traits]] = {
    "afl": Traits(needs="all", training_loss=True),
    "centered_clipping": Traits(needs="all"),
    "fedadagrad": Traits(needs="sum"),
    "fedadam": Traits(needs="sum"),
    "fedavg": Traits(needs="sum"),
    "fedavgm": Traits(needs="sum"),
    "fednova": Traits(needs="all", sgd_only=True, weighs_steps=True, options=FedNovaOptions),
    "fedprox": Traits(needs="sum", options=FedProxOptions),
    "fedyogi": Traits(needs="sum"),
    "fltrust": Traits(needs="all", options=FLTrustOptions),
    "geometric_median": Traits(needs="all"),
    "median": Traits(needs="all"),
    "multi_krum": Traits(needs="all"),
    "newton": Traits(needs="sum", second_order=True),
    "norm_bound": Traits(needs="all"),
    "qffl": Traits(needs="all", training_loss=True),
    "trimmed_mean": Traits(needs="all"),
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


def require_step_rule(
    strategy: str, options: Strict | None, training: Mapping[str, object], factors: Mapping[str, float]
) -> None:
    """Refuse what moves a model otherwise than the strategy's rule says, where it is derived from steps of plain SGD.

    SCAFFOLD's sites work out their mean gradient from where the steps led. FedNova with a proximal term knows how much
    each step's gradient still counts at the end, after each later step has drawn the model back by the same share.

    Args:
        strategy: Of the aggregation.
        options: Of the strategy.
        training: The keys of ``[training]``.
        factors: On the learning rate, by layer; what is frozen has 0.

    Raises:
        ValueError: There is more than SGD at one learning rate, or a step draws back further than to where it
            started; the text starts with the key.
    """
    mu = options.mu if isinstance(options, FedNovaOptions) else 0.0
    if strategy != "scaffold" and not mu:
        return
    rate = training["learning_rate"]
    assert isinstance(rate, float)
    if mu * rate >= 1.0:
        raise ValueError(
            f"aggregation.mu: found {mu:g}; with training.learning_rate = {rate:g} a step draws the model back by "
            f"{mu * rate:g} of its way, and allowed is less than 1."
        )
    what = "weighs proximal steps of plain SGD" if mu else "corrects plain SGD"
    plain = {"optimizer": "sgd", "momentum": 0.0, "schedule": "constant", "warmup_rounds": 0, "gradient_clip": None}
    for key, allowed in plain.items():
        if training[key] != allowed:
            raise ValueError(
                f"training.{key}: found {training[key]!r}; aggregation.strategy = '{strategy}' {what} at one "
                f"learning rate, so allowed is {'no such key' if allowed is None else repr(allowed)}."
            )
    for layer, factor in factors.items():
        if factor not in (0.0, 1.0):
            raise ValueError(
                f"model.backbone.learning_rates.{layer}: found {factor:g}; aggregation.strategy = '{strategy}' "
                f"{what} at one learning rate, so allowed is 0 or 1."
            )
