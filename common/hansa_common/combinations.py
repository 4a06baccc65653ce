"""Which protections go together with which aggregation strategy and codec: decided once, for plans and for people.

``decide`` answers for every combination there is. A strategy or codec that is not listed here cannot be combined with a
protection: a test walks the product of all registries and fails on one that nobody decided.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from hansa_common.privacy_plan import DifferentialKind
from hansa_common.strategies import STRATEGIES, Needs, Traits

RingBits = Literal[16, 32]

CODECS: Final[Mapping[str, bool]] = {"float32": True, "bf16": False, "int8": False, "int4": False, "topk": False}
"""How an update travels, and whether the sum of what travels is what the sum of the updates would be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What becomes of a combination.

    Attributes:
        allowed: A plan may ask for it.
        text: Why not, or what it means for those who take part.
    """

    allowed: bool
    text: str


def decide(*, strategy: str, ring_bits: RingBits | None, kind: DifferentialKind | None, codec: str) -> Decision:
    """Say whether a plan may combine these, and what that means.

    Args:
        strategy: Of the aggregation.
        ring_bits: Of secure aggregation; ``None`` without.
        kind: Of differential privacy; ``None`` without.
        codec: Of the updates.

    Raises:
        KeyError: Nobody decided on this strategy or codec.
    """
    traits, linear = STRATEGIES[strategy], CODECS[codec]
    needs = traits.needs
    refused = (
        (
            _refused_by_masks(strategy, needs, codec, linear=linear)
            if ring_bits is not None
            else _refused_without_masks(kind)
        )
        or _refused_by_noise(strategy, traits, ring_bits, kind)
        or _refused_by_rounding(codec, kind, linear=linear)
        or _refused_by_holding_back(strategy, traits, codec)
    )
    if traits.carried > 1 and (ring_bits is not None or kind is not None):
        refused = _REFUSED_CARRIED.format(strategy=strategy)
    if traits.second_order and (ring_bits is not None or kind is not None or codec != "float32"):
        refused = _REFUSED_CURVATURE.format(strategy=strategy)
    if refused:
        return Decision(allowed=False, text=refused)
    return Decision(allowed=True, text=f"{_SEES[ring_bits is not None]} {_TELLS[kind]}")


_REFUSED_CARRIED: Final = (
    "aggregation.strategy = '{strategy}' sends control variates beside the update: they have another scale, so no "
    "one coordinate range or clipping bound fits both, and each is a mean gradient of the site's data that is "
    "kept over rounds. Choose another strategy, or leave out [privacy]."
)

_REFUSED_CURVATURE: Final = (
    "aggregation.strategy = '{strategy}' sends losses, gradients and Hessians of differing scales, which no one "
    "coordinate range or clipping bound fits, each number in two parts, of which a codec would round the second away. "
    "Choose another strategy, or leave out [privacy] and transport.codec."
)


def class_of(traits: Traits) -> str:
    """Return what a strategy's combinations depend on, in words: all strategies of a class are decided alike."""
    if traits.carried > 1:
        return "adds up, and carries more"
    if traits.second_order:
        return "adds up curvature"
    if traits.needs == "sum":
        return "adds up"
    return "compares losses" if traits.training_loss else "compares"


_SEES: Final = {
    False: "The coordinator reads each site's update.",
    True: "The coordinator reads the sum over the sites only, unless it colludes with more sites than the plan "
    "tolerates.",
}
_TELLS: Final[Mapping[DifferentialKind | None, str]] = {
    None: "Nothing limits what it can work out from it about single examples.",
    "example": "What it can work out about one person of a site is limited by epsilon and delta, whoever reads it.",
    "site_server": "The model limits what others can work out about one site; the coordinator, who adds the noise, is "
    "trusted.",
    "site_distributed": "What anybody can work out about one site is limited by epsilon and delta, the coordinator "
    "included.",
}


def refused_personalisation(method: str, kind: DifferentialKind | None) -> str:
    """Say why a plan may not personalise so under this differential privacy; empty where it may.

    Masks, and noise for the sum, see the shared part only, which is a sum like any other.
    """
    if kind != "example":
        return ""
    return (
        f"personalisation.method = '{method}' trains a part of the model without noise beside the private one, which "
        "the guarantee of kind = 'example' does not cover: leave out [personalisation] or [privacy.differential]."
    )


def _refused_by_masks(strategy: str, needs: Needs, codec: str, *, linear: bool) -> str:
    if needs == "all":
        return (
            f"aggregation.strategy = '{strategy}' compares the sites' updates, and secure aggregation shows their sum "
            "only: choose a strategy that needs the sum, or leave out [privacy.secure_aggregation]."
        )
    if not linear:
        return f"codec '{codec}' is not linear: masks would not cancel in the sum. Leave out transport.codec."
    return ""


def _refused_without_masks(kind: DifferentialKind | None) -> str:
    if kind != "site_distributed":
        return ""
    return (
        "privacy.differential.kind = 'site_distributed' adds a part of the noise at each site, which protects only the "
        "sum: add [privacy.secure_aggregation]."
    )


def _refused_by_rounding(codec: str, kind: DifferentialKind | None, *, linear: bool) -> str:
    """Noise at a site is in the update before it is rounded, which then costs nothing; noise of the sum comes after."""
    if linear or kind in (None, "example"):
        return ""
    if codec == "topk":
        return (
            "transport.codec = 'topk' adds what a site held back to an update after it was clipped, which then is "
            f"longer than the bound that the noise of kind = '{kind}' hides: leave out the codec."
        )
    return (
        f"transport.codec = '{codec}' rounds an update after it was clipped, and may lengthen it beyond the bound that "
        f"the noise of kind = '{kind}' hides: leave out the codec."
    )


def _refused_by_holding_back(strategy: str, traits: Traits, codec: str) -> str:
    """What is held back must count later as it would have counted now."""
    if codec != "topk" or (traits.needs == "sum" and traits.carried == 1):
        return ""
    why = (
        "sends control variates beside the update, and of two scales the larger would take all the places"
        if traits.carried > 1
        else "compares the sites' updates or weighs each by itself, and of a sparse update it sees too little to do so"
    )
    return (
        f"transport.codec = 'topk' sends an update's largest values only, and aggregation.strategy = '{strategy}' "
        f"{why}: choose a strategy that adds updates up, or another codec."
    )


def _refused_by_noise(strategy: str, traits: Traits, ring_bits: RingBits | None, kind: DifferentialKind | None) -> str:
    if traits.training_loss and kind == "example":
        return (
            f"aggregation.strategy = '{strategy}' weighs the sites by their training losses, and differential privacy "
            "lets no loss out: choose another strategy, or leave out [privacy.differential]."
        )
    if traits.needs == "all" and kind in ("site_server", "site_distributed"):
        return (
            f"privacy.differential.kind = '{kind}' adds noise to the sum of the updates, and aggregation.strategy = "
            f"'{strategy}' needs each of them: choose a strategy that needs the sum, or kind = 'example'."
        )
    if kind == "site_distributed" and ring_bits == 16:  # noqa: PLR2004
        return "privacy.secure_aggregation.ring_bits = 16 leaves no room for noise: kind = 'site_distributed' needs 32."
    return ""
