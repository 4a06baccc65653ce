"""``[privacy]`` of a plan: what protects the sites' updates, decided before anybody trains and approved with the plan.

Two protections, alone or together. Secure aggregation hides each update within the sum; differential privacy limits
what the sum tells. Which combinations there are, and what each is worth, says ``hansa_common.combinations``.
"""

from typing import Annotated, Any, Literal, Protocol, Self

from pydantic import Field, model_validator

from hansa_common.contract import Text
from hansa_common.settings import Strict

FEWEST_MASKED, MOST_MASKED = 3, 100
"""Sites that mask together; ``hansa_common.secagg.terms`` has the same, and why."""

DifferentialKind = Literal["example", "site_server", "site_distributed"]

_Positive = Annotated[float, Field(gt=0.0, le=1e9)]
Multiplier = Annotated[float, Field(ge=0.05, le=1e6)]
"""Of noise, in what it hides: below, accounting takes gigabytes to find that nothing is hidden."""


class SecureAggregationPlan(Strict):
    """``[privacy.secure_aggregation]``: updates and counts leave a site under masks that cancel in the sum only."""

    ring_bits: Literal[16, 32] = 32
    """Width of a coordinate on the wire: 16 halves the bytes and rounds more coarsely."""
    coordinate_range: _Positive
    """Largest absolute value of one coordinate of an update; what is beyond it is cut off."""
    cohort: Literal["fixed", "changing"]
    """``fixed``: a round counts with all sites or not at all. ``changing``: it goes on without sites that drop out, and
    a dishonest coordinator can isolate an update by two rounds that differ by one site."""


class AdaptiveClippingPlan(Strict):
    """``[privacy.differential.adaptive]``: the clipping bound follows a quantile of the norms of the sites' updates.

    Andrew, Thakkar, McMahan, Ramaswamy: Differentially Private Learning with Adaptive Clipping. NeurIPS 2021.
    """

    quantile: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.5
    """Share of the sites whose updates the bound shall leave as they are."""
    rate: Annotated[float, Field(gt=0.0, le=1.0)] = 0.2
    """How fast the bound moves: ``exp(rate)`` a round at most, up or down."""
    noise_multiplier: Multiplier
    """Of how many updates were left as they are, which is released in each round beside the mean."""
    least: _Positive = 1e-6
    """The bound never falls below it."""
    most: _Positive = 1e6
    """The bound never rises above it."""


class DifferentialPrivacyPlan(Strict):
    """``[privacy.differential]``: noise that is calibrated to what one person, or one site, can change."""

    kind: DifferentialKind
    """``example``: a person at a site, by DP-SGD there. ``site_server``: a whole site, noise added by the coordinator,
    who must be trusted. ``site_distributed``: a whole site, noise added by the sites under masks."""
    clipping_bound: _Positive
    """L2 bound: of one person's gradient with ``example``, else of one site's update."""
    noise_multiplier: Multiplier
    """Standard deviation of the noise, in clipping bounds."""
    epsilon: _Positive
    """What the whole study may cost; the round that would exceed it is refused before it is trained."""
    delta: Annotated[float, Field(gt=0.0, lt=1.0)]
    """Chance that the bound does not hold; below 1 / (persons at a site) with ``example``, below 1 / sites else."""
    sampling_rate: Annotated[float, Field(gt=0.0, lt=1.0)] | None = None
    """With ``example``: chance of each person to be in a step (Poisson sampling)."""
    unit: Text | None = None
    """With ``example``: the column that says whose a row is. Left out: each row is a person of its own."""
    metrics_noise: Multiplier | None = None
    """With ``example``: noise multiplier of the counts of right and wrong answers. Left out: no counts leave."""
    adaptive: AdaptiveClippingPlan | None = None
    """With ``site_server``: ``clipping_bound`` is that of the first round."""

    @model_validator(mode="after")
    def _belongs_together(self) -> Self:
        if self.kind == "example":
            if self.sampling_rate is None:
                raise ValueError("sampling_rate: this key is required with kind = 'example' and missing.")
            return self
        for key in ("sampling_rate", "unit", "metrics_noise"):
            if getattr(self, key) is not None:
                raise ValueError(f"{key}: this key is for kind = 'example'; kind is '{self.kind}'.")
        return self

    @model_validator(mode="after")
    def _moves_within_bounds(self) -> Self:
        adaptive = self.adaptive
        if adaptive is None:
            return self
        if self.kind != "site_server":
            raise ValueError(f"adaptive: this section is for kind = 'site_server'; kind is '{self.kind}'.")
        if not adaptive.least <= self.clipping_bound <= adaptive.most:
            raise ValueError(
                f"clipping_bound: found {self.clipping_bound:g}; allowed is {adaptive.least:g} to {adaptive.most:g}, "
                "between which [privacy.differential.adaptive] moves it."
            )
        return self


class PrivacyPlan(Strict):
    """``[privacy]``: what protects the sites' updates."""

    weights: Literal["examples", "equal"] = "examples"
    """How much a site's update counts: by its training examples, which the server then knows, or all the same."""
    maximum_examples: Annotated[int, Field(ge=1, le=1 << 40)] | None = None
    """Most training examples that count for one site; required by secure aggregation with ``weights = "examples"``."""
    clipping_bound: _Positive | None = None
    """L2 bound of a site's update, applied at the site before it leaves."""
    secure_aggregation: SecureAggregationPlan | None = None
    differential: DifferentialPrivacyPlan | None = None

    @model_validator(mode="after")
    def _belongs_together(self) -> Self:
        masked, noised = self.secure_aggregation, self.differential
        if masked and self.weights == "examples" and self.maximum_examples is None:
            raise ValueError(
                "maximum_examples: this key is required with secure aggregation and weights = 'examples', and missing."
            )
        if self.weights == "equal" and self.maximum_examples is not None:
            raise ValueError("maximum_examples: this key is for weights = 'examples'; weights is 'equal'.")
        if noised is None:
            return self
        if self.weights != "equal":
            raise ValueError(
                "weights: found 'examples'; allowed is 'equal' with differential privacy, for a weight that depends on "
                "the data changes what the noise must hide."
            )
        if noised.adaptive is not None and masked is not None:
            raise ValueError(
                "differential.adaptive: each site tells for itself whether its update was clipped; leave out this "
                "section or [privacy.secure_aggregation]."
            )
        if noised.kind != "example" and self.clipping_bound is not None:
            raise ValueError(
                f"clipping_bound: with kind = '{noised.kind}' the bound of an update is that of [privacy.differential]."
            )
        return self

    @property
    def update_bound(self) -> float | None:
        """The L2 bound of a site's update, whichever section sets it."""
        if self.differential is not None and self.differential.kind != "example":
            return self.differential.clipping_bound
        return self.clipping_bound


class _Training(Protocol):
    """What of ``[training]`` can depend on the data."""

    @property
    def epochs(self) -> int | None: ...
    @property
    def class_weights(self) -> object: ...
    @property
    def gradient_clip(self) -> float | None: ...
    @property
    def augmentation(self) -> Any: ...


def require_data_independent(training: _Training, *, standardise: str) -> None:
    """Return if nothing but noised gradients depends on the data, as ``kind = "example"`` promises.

    Raises:
        ValueError: Something does; the message names its key.
    """
    depends = {
        "training.epochs": training.epochs is not None,
        "training.class_weights": training.class_weights == "balanced",
        "training.augmentation.mixup": bool(training.augmentation.mixup),
        "training.gradient_clip": training.gradient_clip is not None,
        "data.standardise": standardise == "site",
    }
    found = [name for name, is_set in depends.items() if is_set]
    if found:
        raise ValueError(
            f"{found[0]}: with privacy.differential.kind = 'example' nothing but noised gradients may depend on the "
            "data; use training.steps, fixed class weights, no mixup, no gradient_clip (the bound is "
            "privacy.differential.clipping_bound) and no standardisation by the site."
        )
