"""What was released with noise: the only things that accounting knows.

Every event says whose privacy it is about and what neighbouring data sets are, and events that disagree are never added
up: that is how units and relations cannot be mixed. ``noise_multiplier`` is always the noise's deviation over the
sensitivity **under the event's own relation**. Replacing a unit changes a sum of clipped vectors by twice the bound, so
for one and the same noise the multiplier is half as large; ``multiplier_of`` divides, and nobody else need.

Evolution: kinds and fields are added, meanings never change. A site's ledger keeps events as JSON for ever.
"""

import math
from collections import Counter
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import Field, TypeAdapter, ValidationError, model_validator

from hansa_common.errors import PrivacyError
from hansa_common.settings import Strict

Positive = Annotated[float, Field(gt=0.0)]
Count = Annotated[int, Field(ge=1, le=1_000_000_000)]


class Unit(StrEnum):
    """Whose privacy: what is added, removed or replaced between neighbouring data sets."""

    EXAMPLE = "example"
    """A person by the id column, with all rows; not a row."""
    SITE = "site"
    """An institution with everything it holds."""


class Relation(StrEnum):
    """When two data sets are neighbours."""

    ADD_OR_REMOVE_ONE = "add_or_remove_one"
    REPLACE_ONE = "replace_one"

    def sensitivity(self, bound: float) -> float:
        """Return how far, in L2, neighbouring sums of vectors with norms of at most ``bound`` are apart."""
        return bound if self is Relation.ADD_OR_REMOVE_ONE else 2.0 * bound


class _Event(Strict):
    unit: Annotated[Unit, Field(strict=False)]
    relation: Annotated[Relation, Field(strict=False)] = Relation.ADD_OR_REMOVE_ONE


class Gaussian(_Event):
    """``count`` releases with Gaussian noise, each over all units: nothing is gained by sampling."""

    kind: Literal["gaussian"] = "gaussian"
    noise_multiplier: Positive
    count: Count = 1


class SampledGaussian(_Event):
    """``steps`` releases, each over units drawn independently with probability ``sampling_rate`` (Poisson).

    Only for adding or removing a unit: for replacing one, no bound in Renyi divergence is implemented that the ledger
    could add up, and accountants have returned the value for the other relation instead.
    """

    kind: Literal["sampled_gaussian"] = "sampled_gaussian"
    noise_multiplier: Positive
    sampling_rate: Annotated[float, Field(gt=0.0, lt=1.0)]
    steps: Count

    @model_validator(mode="after")
    def _adds_or_removes(self) -> Self:
        if self.relation is not Relation.ADD_OR_REMOVE_ONE:
            raise ValueError("sampling is accounted for adding or removing a unit only.")
        return self


class DistributedGaussian(_Event):
    """``count`` secure sums in which ``shares`` honest sites each added a discrete Gaussian to integers.

    ``sensitivity`` is after rounding and under the relation, in units of the grid, as is ``share_deviation``.
    """

    kind: Literal["distributed_gaussian"] = "distributed_gaussian"
    sensitivity: Positive
    share_deviation: Annotated[float, Field(ge=0.5)]
    """Of one site's share; the theorem needs at least 1/2."""
    shares: Annotated[int, Field(ge=1, le=100_000)]
    """Honest survivors for certain, ``t - m``; more add noise and are not counted."""
    dimension: Count
    count: Count = 1


class NoisedCounts(_Event):
    """``count`` numbers with discrete Laplace noise ``P[x] ~ exp(-|x| epsilon)`` on values of sensitivity 1."""

    kind: Literal["noised_counts"] = "noised_counts"
    epsilon: Positive
    """Of one release under the relation: the noise is calibrated to it."""
    count: Count = 1


Event = Gaussian | SampledGaussian | DistributedGaussian | NoisedCounts
_EVENTS: TypeAdapter[tuple[Event, ...]] = TypeAdapter(tuple[Annotated[Event, Field(discriminator="kind")], ...])


def multiplier_of(deviation: float, *, bound: float, relation: Relation) -> float:
    """Return the noise multiplier of noise with this deviation on a sum of vectors clipped to ``bound``.

    Raises:
        PrivacyError: The bound or the deviation is not positive and finite.
    """
    if not (0.0 < bound < math.inf and 0.0 < deviation < math.inf):
        raise PrivacyError(f"noise: found a deviation of {deviation!r} for a clipping bound of {bound!r}.")
    return deviation / relation.sensitivity(bound)


def common_ground(events: Sequence[Event]) -> tuple[Unit, Relation]:
    """Return the one unit and relation that all events are about.

    Raises:
        PrivacyError: There is no event, or they are not all about the same.
    """
    grounds = {(event.unit, event.relation) for event in events}
    if len(grounds) != 1:
        found = ", ".join(sorted(f"{unit.value} with {relation.value}" for unit, relation in grounds)) or "nothing"
        raise PrivacyError(
            f"Privacy losses of different units or neighbouring relations do not add up; found {found}.",
            advice="Account for each unit and relation on its own.",
        )
    return next(iter(grounds))


def tally(events: Sequence[Event]) -> Counter[Event]:
    """Count releases: how often each single one happens, whatever it is bundled with."""
    counts: Counter[Event] = Counter()
    for event in events:
        name, number = ("steps", event.steps) if isinstance(event, SampledGaussian) else ("count", event.count)
        counts[event.model_copy(update={name: 1})] += number
    return counts


def bundle(counts: Counter[Event]) -> tuple[Event, ...]:
    """Return the events of a tally, one for each kind of release."""
    return tuple(
        event.model_copy(update={"steps" if isinstance(event, SampledGaussian) else "count": number})
        for event, number in counts.items()
        if number > 0
    )


def dump_events(events: Sequence[Event]) -> str:
    """Return events as one line of JSON; numbers come back to the last bit."""
    return _EVENTS.dump_json(tuple(events)).decode()


def load_events(text: str) -> tuple[Event, ...]:
    """Return what ``dump_events`` was given.

    Raises:
        PrivacyError: It is no list of known events.
    """
    try:
        return _EVENTS.validate_json(text)
    except ValidationError as error:
        raise PrivacyError(f"These are no known privacy events: {error.errors()[0]['msg']}.") from None
