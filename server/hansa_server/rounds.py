"""The round state machine, without I/O: what may come in, when a round closes, and with which updates.

``now`` is an argument everywhere; sending and waiting are the caller's. Rules:

* Each site of the cohort is *waiting*, then *accepted* (its update is folded in) or *missing* (it failed, refused, was
  refused, or was late); it never changes after that.
* Updates are folded in ascending site id, whatever the order of arrival: those whose turn has not come are held in
  ``Held``. So the sum is the same, bit for bit, on every engine.
* A round closes when no site is waiting, or at its deadline. It counts if at least the quorum was accepted; otherwise
  it is void and its sum is thrown away.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from hansa_common.errors import UpdateRefused
from hansa_common.messages import Message, Update
from hansa_common.metrics import ClassificationCounts
from hansa_common.parameters import CHUNK, Vector, is_finite
from hansa_server.strategies import Contribution, Strategy

_LARGEST = 1e9
"""No training changes a parameter by more; 3e38 of one site would end in infinity for all."""


class Phase(Enum):
    """Where a round stands."""

    OPEN = "open"
    COUNTS = "counts"
    VOID = "void"


class Held(Protocol):
    """Keeps deltas whose turn has not come, so that the server's memory does not grow with the number of sites."""

    def put(self, site: str, delta: Vector) -> None:
        """Keep one delta."""

    def take(self, site: str) -> Vector:
        """Give it back and forget it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """An update that counts, without its delta."""

    header: Update
    counts: ClassificationCounts = field(repr=False)


def quorum_of(share: float, sites: int) -> int:
    """Return how many of ``sites`` a share of them is, rounded up, at least one."""
    return max(1, math.ceil(round(share * sites, 9)))  # 0.7 * 10 is a little more than 7


class Round:
    """One round of one study.

    Args:
        plan_digest: Of the study; an update to another is refused.
        number: From 1.
        attempt: From 1; a reply to another attempt is refused.
        cohort: Its sites in ascending id.
        quorum: Share of the cohort that must be accepted.
        deadline: Time at which it closes, on the clock that ``now`` is read from.
        parameters: ``P``, the length of an update.
        examples: What each site of the cohort declared when the study was opened: the size of its training split, the
            weight it may use, and of its validation split.
        strategy: What updates are folded into.
        held: Where updates wait for their turn.
    """

    def __init__(
        self,
        *,
        plan_digest: str,
        number: int,
        attempt: int,
        cohort: tuple[str, ...],
        quorum: float,
        deadline: float,
        parameters: int,
        examples: Mapping[str, tuple[int, int]],
        strategy: Strategy,
        held: Held,
    ) -> None:
        self.plan_digest = plan_digest
        self.number = number
        self.attempt = attempt
        self.cohort = cohort
        self.deadline = deadline
        self.needed = quorum_of(quorum, len(cohort))
        self.accepted: dict[str, Accepted] = {}
        self.missing: dict[str, str] = {}
        self._parameters = parameters
        self._examples = examples
        self._strategy = strategy
        self._held = held
        self._folded = 0  # how many sites of the cohort have had their turn
        self._phase = Phase.OPEN

    @property
    def waiting(self) -> tuple[str, ...]:
        """Sites that have neither replied nor failed."""
        return tuple(site for site in self.cohort if site not in self.accepted and site not in self.missing)

    def receive(self, site: str, message: Message) -> None:
        """Take in the reply of a site.

        Raises:
            UpdateRefused: It breaks a rule; the site is missing from this round from now on.
            RuntimeError: The round is closed, or the site is not waiting; the caller asks ``waiting`` first.
        """
        self._must_wait_for(site)
        try:
            update, delta = self._check(site, message)
        except UpdateRefused as error:
            self.fail(site, str(error))
            raise
        self.accepted[site] = Accepted(header=update, counts=message.counts["validation"])
        if self._next() == site:
            self._fold(site, delta)
            self._folded += 1
        else:
            self._held.put(site, delta)

    def fail(self, site: str, reason: str) -> None:
        """Note that a site will not deliver in this round, and why."""
        self._must_wait_for(site)
        self.missing[site] = reason

    def _must_wait_for(self, site: str) -> None:
        known = site in self._examples and site not in self.accepted and site not in self.missing
        if self._phase is not Phase.OPEN or not known:
            raise RuntimeError(f"Round {self.number} does not wait for {site}.")

    def tick(self, now: float) -> Phase:
        """Close the round if it is time, and tell where it stands."""
        if self._phase is Phase.OPEN and self.waiting and now >= self.deadline:
            for site in self.waiting:
                self.fail(site, "It did not reply before the deadline.")
        if self._phase is Phase.OPEN and not self.waiting:
            self.fold_held()
            self._phase = Phase.COUNTS if len(self.accepted) >= self.needed else Phase.VOID
        return self._phase

    def _next(self) -> str | None:
        return self.cohort[self._folded] if self._folded < len(self.cohort) else None

    def fold_held(self) -> None:
        """Fold in the held updates whose turn has come; the caller has let go of the one it brought."""
        while (site := self._next()) is not None:
            if site in self.accepted:
                self._fold(site, self._held.take(site))
            elif site not in self.missing:
                return
            self._folded += 1

    def _fold(self, site: str, delta: Vector) -> None:
        header = self.accepted[site].header
        self._strategy.fold(Contribution(site=site, delta=delta, num_examples=header.num_examples, steps=header.steps))

    def _check(self, site: str, message: Message) -> tuple[Update, Vector]:
        """Hold a reply against the plan and against what was asked."""
        header, delta = message.header, message.vector
        if not isinstance(header, Update) or delta is None:
            raise UpdateRefused(f"{site} sent '{header.kind}' where an update was due.", site=site)
        if header.site != site:
            raise UpdateRefused(f"{site} sent an update in the name of '{header.site}'.", site=site)
        if header.plan_digest != self.plan_digest:
            raise UpdateRefused(f"{site} sent an update that belongs to another plan.", site=site)
        if (header.round, header.attempt) != (self.number, self.attempt):
            raise UpdateRefused(
                f"{site} answered round {header.round}, attempt {header.attempt}; asked was {self.number}, "
                f"{self.attempt}.",
                site=site,
            )
        training, validation = self._examples[site]
        if header.num_examples != training or header.num_examples < 1:
            raise UpdateRefused(
                f"{site} weighs its update with {header.num_examples:,} examples; it declared "
                f"{training:,} when the study was opened.",
                site=site,
            )
        if delta.size != self._parameters:
            raise UpdateRefused(f"{site} sent {delta.size:,} values; the model has {self._parameters:,}.", site=site)
        counts = message.counts.get("validation")
        if len(message.counts) != 1 or counts is None or counts.has_histograms or counts.num_examples != validation:
            raise UpdateRefused(f"{site} sent other counts than those of its validation split.", site=site)
        if not math.isfinite(header.train_loss) or not is_finite(delta):
            raise UpdateRefused(
                f"{site} sent an update with NaN or infinity.",
                site=site,
                advice="Its training diverged, or it is faulty; the other sites go on.",
            )
        if _largest(delta) > _LARGEST:
            raise UpdateRefused(
                f"{site} sent an update with a value beyond {_LARGEST:g}.",
                site=site,
                advice="Its training diverged, or it is faulty; the other sites go on.",
            )
        return header, delta


def _largest(vector: Vector) -> float:
    """Return the largest absolute value, 0 where there is none; a chunk at a time."""
    chunks = (vector[start : start + CHUNK] for start in range(0, vector.size, CHUNK))
    return max((max(float(chunk.max()), -float(chunk.min())) for chunk in chunks), default=0.0)
