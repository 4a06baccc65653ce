"""The round state machine, without I/O: what may come in, when a round closes, and with which updates.

``now`` is an argument everywhere; sending and waiting are the caller's. Rules:

* Each site of the cohort is *waiting*, then *accepted* (its update is held in ``Held``) or *missing* (it failed,
  refused, was refused, or was late); it never changes after that.
* A round closes when no site is waiting, or at its deadline. It counts if at least the quorum was accepted; otherwise
  it is void and its updates are thrown away.
* The updates of a round that counts are folded in ascending site id, whatever the order of arrival. So the sum is the
  same, bit for bit, on every engine.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from hansa_common.errors import StudyFailed, UpdateRefused
from hansa_common.messages import Message, Update
from hansa_common.metrics import Counts
from hansa_common.parameters import Vector, l2_norm, largest
from hansa_common.privacy_plan import PrivacyPlan
from hansa_common.protection import counted_examples, counts_leave
from hansa_server.strategies import Contribution

_MOST_NAMED = 8  # sites in one error message; the report has them all
_LARGEST = 1e9
"""No training changes a parameter by more; 3e38 of one site would end in infinity for all."""


class Phase(Enum):
    """Where a round stands."""

    OPEN = "open"
    COUNTS = "counts"
    VOID = "void"


class Held(Protocol):
    """Keeps a round's deltas, so that the server's memory does not grow with the number of sites."""

    def put(self, site: str, delta: Vector) -> None:
        """Keep one delta."""

    def get(self, site: str) -> Vector:
        """Return it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """An update that counts, without its delta."""

    header: Update
    counts: Counts | None = field(repr=False)
    norm: float | None = None
    """L2 norm of its delta; not kept with differential privacy, which nobody accounted it to, nor of what is none."""


def quorum_of(share: float, sites: int) -> int:
    """Return how many of ``sites`` a share of them is, rounded up, at least one."""
    return max(1, math.ceil(round(share * sites, 9)))  # 0.7 * 10 is a little more than 7


def require_quorum(share: float, found: int, asked: int, failed: Mapping[str, str], what: str) -> None:
    """Return if enough sites delivered.

    Args:
        share: Of those asked that must deliver.
        found: How many did.
        asked: How many were asked.
        failed: Why each of the others did not.
        what: What fails without them, the beginning of a sentence.

    Raises:
        StudyFailed: They are too few; the text says who is missing and why.
    """
    needed = quorum_of(share, asked)
    if found >= needed:
        return
    lines = [f"  {site}: {reason}" for site, reason in sorted(failed.items())]
    if len(lines) > _MOST_NAMED:
        lines[_MOST_NAMED:] = [f"  and {len(lines) - _MOST_NAMED} more"]
    raise StudyFailed(
        "\n".join([f"{what}: {found} of {asked} sites delivered, the quorum is {needed}.", *lines]),
        advice="Mend what the sites report, or lower rounds.quorum in a new plan.",
    )


class Round:
    """One round of one study.

    Args:
        plan_digest: Of the study; an update to another is refused.
        number: From 1.
        attempt: From 1; a reply to another attempt is refused.
        cohort: Its sites in ascending id.
        quorum: Share of the cohort that must be accepted.
        deadline: Time at which it closes, on the clock that ``now`` is read from.
        parameters: The length of an update: ``P``, unless the strategy asks for more.
        examples: What each site of the cohort declared when the study was opened: the size of its training split, the
            weight it may use, and of its validation split.
        held: Where updates wait until the round closes.
        privacy: What protects the updates: no site is taken at its word that it clipped.
        tells_loss: The strategy asks for the loss of the incoming model; it comes then, and only then.
        steps: How many a site with so many training examples takes, where the strategy weighs updates by them.
        is_delta: An update is a change of the model, whose length says something.
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
        held: Held,
        privacy: PrivacyPlan,
        tells_loss: bool = False,
        steps: Callable[[int], int] | None = None,
        is_delta: bool = True,
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
        self._held = held
        self._privacy = privacy
        self._tells_loss = tells_loss
        self._steps = steps
        self._tells_norm = is_delta and privacy.differential is None
        self._phase = Phase.OPEN

    @property
    def waiting(self) -> tuple[str, ...]:
        """Sites that have neither replied nor failed."""
        return tuple(site for site in self.cohort if site not in self.accepted and site not in self.missing)

    @property
    def size(self) -> int:
        """How many values an update must have."""
        return self._parameters

    def receive(self, site: str, message: Message) -> None:
        """Take in the reply of a site.

        Raises:
            UpdateRefused: It breaks a rule; the site is missing from this round from now on.
            RuntimeError: The round is closed, or the site is not waiting; the caller asks ``waiting`` first.
        """
        self._must_wait_for(site)
        try:
            update, delta, norm = self._check(site, message)
        except UpdateRefused as error:
            self.fail(site, str(error))
            raise
        self.accepted[site] = Accepted(header=update, counts=message.counts.get("validation"), norm=norm)
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
            self._phase = Phase.COUNTS if len(self.accepted) >= self.needed else Phase.VOID
        return self._phase

    def contributions(self) -> list[Contribution]:
        """Return the accepted updates in ascending site id.

        Raises:
            RuntimeError: The round is open or void.
        """
        if self._phase is not Phase.COUNTS:
            raise RuntimeError(f"Round {self.number} does not count.")
        return [
            Contribution(
                site=site,
                delta=self._held.get(site),
                num_examples=counted_examples(self._privacy, self.accepted[site].header.num_examples),
                steps=self.accepted[site].header.steps,
                loss=self.accepted[site].header.incoming_loss,
            )
            for site in self.cohort
            if site in self.accepted
        ]

    def _check(self, site: str, message: Message) -> tuple[Update, Vector, float | None]:
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
        untold = self._privacy.differential is not None
        if header.num_examples != training or (header.num_examples < 1) != untold:
            raise UpdateRefused(
                f"{site} weighs its update with {header.num_examples:,} examples; it declared "
                f"{training:,} when the study was opened.",
                site=site,
            )
        if delta.size != self._parameters:
            raise UpdateRefused(f"{site} sent {delta.size:,} values; due are {self._parameters:,}.", site=site)
        if not counts_fit(self._privacy, message.counts, validation):
            raise UpdateRefused(f"{site} sent other counts than those of its validation split.", site=site)
        if not math.isfinite(header.train_loss):
            raise UpdateRefused(f"{site} sent a training loss that is not finite.", site=site)
        self._check_incoming_loss(site, header.incoming_loss)
        self._check_clipped(site, header.was_within)
        if self._steps is not None and header.steps != (due := self._steps(header.num_examples)):
            raise UpdateRefused(f"{site} says it took {header.steps:,} steps; the plan asks for {due:,}.", site=site)
        norm = self._check_size(site, delta)
        return header, delta, norm if self._tells_norm else None

    def _check_incoming_loss(self, site: str, loss: float | None) -> None:
        """Hold the loss of the incoming model against what the strategy asks for: it weighs the site's update."""
        if (loss is not None) != self._tells_loss:
            told = (
                "did not tell the loss of the incoming model" if loss is None else "told a loss that nobody asked for"
            )
            raise UpdateRefused(f"{site} {told}.", site=site)
        if loss is not None and not 0.0 <= loss <= _LARGEST:  # NaN is refused as well
            raise UpdateRefused(
                f"{site} sent a loss of the incoming model that is negative, not finite or beyond {_LARGEST:g}.",
                site=site,
            )

    def _check_clipped(self, site: str, within: bool | None) -> None:
        """Have a site tell whether its update was clipped where the bound moves by that, and only then."""
        noised = self._privacy.differential
        if (within is not None) != (noised is not None and noised.adaptive is not None):
            told = "did not tell whether it clipped" if within is None else "told whether it clipped; nobody asked"
            raise UpdateRefused(f"{site} {told}.", site=site)

    def _check_size(self, site: str, delta: Vector) -> float:
        """Hold the values of an update against what training can give and the plan allows; return its L2 norm."""
        size = largest(delta)
        if not math.isfinite(size):
            raise UpdateRefused(
                f"{site} sent an update with NaN or infinity.",
                site=site,
                advice="Its training diverged, or it is faulty; the other sites go on.",
            )
        if size > _LARGEST:
            raise UpdateRefused(
                f"{site} sent an update with a value beyond {_LARGEST:g}.",
                site=site,
                advice="Its training diverged, or it is faulty; the other sites go on.",
            )
        bound, norm = self._privacy.update_bound, l2_norm(delta)
        if bound is not None and norm > bound:
            raise UpdateRefused(
                f"{site} sent an update of norm {norm:.6g}; the plan's clipping bound is {bound:g}.",
                site=site,
                advice="It did not clip: it runs another release step than the plan asks for.",
            )
        return norm


def counts_fit(privacy: PrivacyPlan, counts: Mapping[str, Counts], validation: int) -> bool:
    """Tell whether counts of a round are those that a site lets out: of the validation split that it declared."""
    if not counts_leave(privacy):
        return not counts
    found = counts.get("validation")
    if len(counts) != 1 or found is None or found.has_histograms:
        return False
    return privacy.differential is not None or found.num_examples == validation
