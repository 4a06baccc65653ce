"""What an audit of a study's leaks found: ``audit.json``, and the pictures of its page.

Evolution: fields are added as optional; ``format`` counts up when a meaning changes.
"""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field

from hansa_common.settings import Strict

Setting = Literal["batch_1", "batch_4", "round", "matching"]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Count = Annotated[int, Field(ge=0)]


class Reconstruction(Strict):
    """How many examples one attack gave back."""

    setting: Setting
    """One step on one or four examples of each site, inverted exactly; a whole round of the study, inverted exactly;
    one step on one image of each site, by gradient matching on the study's own model."""
    model: str
    examples: Count
    recovered: Count
    """At 20 dB or better: a person recognises the original."""
    exact: Count
    """At 30 dB or better: nobody sees a difference."""
    by_chance: Count
    """As many examples that nobody trained on, taken for originals: how many would count as recovered."""
    best: float | None
    """dB; none where nothing was reconstructed."""


class MembershipFigures(Strict):
    """How well training examples are told from others by their loss."""

    auc: Fraction
    low: Fraction
    high: Fraction
    """Ends of the 95 % interval."""
    at_few: Fraction
    """Share of the training examples found while 1 % of the others are taken for such."""
    members: Count
    others: Count
    curve: tuple[Fraction, ...]
    """Share found at 0, 1, ... 100 % false alarms."""


class CanaryFigures(Strict):
    """The one-run audit's lower bound."""

    epsilon: Annotated[float, Field(ge=0.0)]
    guesses: Count
    correct: Count
    canaries: Count
    confidence: Fraction


class Side(Strict):
    """All figures without, or with, protection."""

    reconstructions: tuple[Reconstruction, ...]
    membership: MembershipFigures
    canaries: CanaryFigures


class Leakage(Strict):
    """One audit."""

    format: Literal[1] = 1
    study: str
    plan_digest: str
    model: str
    sites: Count
    rounds: Count
    rounds_planned: Count
    started_at: str
    seconds: float
    data_origin: str
    protection: str
    """What was measured beside nothing, in words."""
    asked_for: bool
    """It is the plan's own; else it shows what secure aggregation would change."""
    sums_only: bool
    """Under protection the attacker reads sums over all sites only."""
    trusts_coordinator: bool
    """The protection is against those who get the models; the coordinator reads each update."""
    claimed_epsilon: float | None = None
    claimed_delta: float | None = None
    unit: Literal["person", "site"] | None = None
    unprotected: Side
    protected: Side


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """An original beside what the attacks made of it, as PNG files; empty where they made nothing."""

    attack: str
    original: bytes = field(repr=False)
    unprotected: bytes = field(repr=False)
    protected: bytes = field(repr=False)
    unprotected_ratio: float | None
    """dB."""
    protected_ratio: float | None
