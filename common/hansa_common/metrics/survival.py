"""Counts of how a model orders people by their hazard: pairs within a site, for Harrell's concordance index.

A pair can be compared where it is known who had the event first: one had it at an earlier time than the other's, or at
the time at which the other was last seen without it. Two events at one time cannot be compared. These are the rules of
lifelines and scikit-survival; equal hazards count half. A pair of two sites is never compared, for it would take both
people's times: the index over sites is that of all pairs within a site, and differs from the pooled one.
"""

from dataclasses import dataclass
from typing import Final, Self

import numpy as np

from hansa_common.errors import MessageError
from hansa_common.metrics.bins import Floats, Integers
from hansa_common.metrics.counts import LOSS_ONE, MAX_LOSS, Moments, loss_units, sum_of_squares

_ROWS: Final = 1 << 22  # pairs looked at together: a few matrices of 4 MiB


@dataclass(frozen=True, slots=True, kw_only=True)
class SurvivalCounts(Moments):
    """What is known of one model on one set of people.

    Attributes:
        events: People whose event was seen.
        pairs: Pairs that can be compared.
        concordant: Of these, where who had the event first has the higher hazard.
        tied: Of these, where both have the same hazard.
        loss_units: Sum over the events of the negative log partial likelihood, in units of 2**-20.
        own_pairs_squared: Sum over people of the squared number of their pairs; with the next two, how sure the index
            is (Pencina and D'Agostino, Statistics in Medicine 2004).
        own_products: Sum over people of their pairs times twice their score: 2 a concordant pair, 1 a tied one.
        own_scores_squared: Sum over people of that score's square.
    """

    events: int = 0
    pairs: int = 0
    concordant: int = 0
    tied: int = 0
    loss_units: int = 0
    own_pairs_squared: int = 0
    own_products: int = 0
    own_scores_squared: int = 0

    @classmethod
    def of(cls, hazards: Floats, times: Floats, events: Integers, losses: Floats) -> Self:
        """Count a model's predictions.

        Args:
            hazards: ``[N]``, the higher the sooner the event is expected.
            times: ``[N]``, not negative.
            events: ``int64 [N]``, 1 where the event was seen, else 0.
            losses: ``[N]``, not negative.

        Raises:
            ValueError: A shape does not fit, or a value is NaN or infinite.
        """
        if not hazards.shape == times.shape == events.shape == losses.shape == (len(times),):
            raise ValueError(f"There are hazards {hazards.shape}, times {times.shape}, events {events.shape}.")
        if not all(np.isfinite(values).all() for values in (hazards, times, losses)):
            raise ValueError("A hazard, time or loss is NaN or infinite.")
        own_pairs, own_scores = np.zeros(len(times), np.int64), np.zeros(len(times), np.int64)
        pairs = concordant = tied = 0
        seen = np.flatnonzero(events)
        size = max(1, _ROWS // max(1, len(times)))
        for start in range(0, len(seen), size):
            first = seen[start : start + size]
            at, later = times[first, None], times[None, :]
            comparable = (at < later) | ((at == later) & (events[None, :] == 0))
            right = comparable & (hazards[first, None] > hazards[None, :])
            equal = comparable & (hazards[first, None] == hazards[None, :])
            scores = 2 * right.astype(np.int64) + equal
            np.add.at(own_pairs, first, comparable.sum(axis=1))
            np.add.at(own_scores, first, scores.sum(axis=1))
            own_pairs += comparable.sum(axis=0)
            own_scores += scores.sum(axis=0)
            pairs, concordant, tied = (
                pairs + int(comparable.sum()),
                concordant + int(right.sum()),
                tied + int(equal.sum()),
            )
        return cls(
            num_examples=len(times),
            events=len(seen),
            pairs=pairs,
            concordant=concordant,
            tied=tied,
            loss_units=loss_units(losses),
            own_pairs_squared=sum_of_squares(own_pairs),
            own_products=int(own_pairs.astype(object) @ own_scores.astype(object)) if len(times) else 0,
            own_scores_squared=sum_of_squares(own_scores),
        )

    @property
    def mean_loss(self) -> float | None:
        """The negative log partial likelihood an event."""
        return self.loss_units / LOSS_ONE / self.events if self.events else None

    def describe(self) -> str:
        """See ``Counts``."""
        return "counts of pairs of people"

    def check(self) -> None:
        """Hold the sums to each other."""
        people = self.num_examples
        score = 2 * self.concordant + self.tied
        if (
            self.events > people
            or self.concordant + self.tied > self.pairs
            or self.pairs > self.events * people
            or self.loss_units > people * int(MAX_LOSS) * LOSS_ONE
            or self.own_products**2 > self.own_pairs_squared * self.own_scores_squared
            or self.own_products > 2 * self.own_pairs_squared
            or (2 * self.pairs) ** 2 > people * self.own_pairs_squared
            or (2 * score) ** 2 > people * self.own_scores_squared
        ):
            raise MessageError("The counts hold pairs that no people have.")
