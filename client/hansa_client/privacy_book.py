"""What the entries of a privacy ledger add up to; no file is opened here (``hansa_client.ledger`` has the rules)."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum

from hansa_common.audit import Entry
from hansa_common.errors import BudgetExceeded, PrivacyError
from hansa_common.privacy import (
    Budget,
    Event,
    Relation,
    Unit,
    bundle,
    common_ground,
    epsilon_from_rdp,
    epsilon_within,
    load_events,
    rdp_at,
    rdp_from_epsilon,
    round_up,
    tally,
)


class Purpose(StrEnum):
    """What a release is for; each of them costs."""

    TRAINING = "training"
    EVALUATION = "evaluation"
    COUNT = "count"
    THRESHOLD = "threshold"


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What is fixed when a ledger is made."""

    population: str
    unit: Unit
    relation: Relation
    order: int
    """Of the Renyi divergences that are added up over studies."""
    budget: Budget


@dataclass(slots=True, kw_only=True)
class Account:
    """What one study has reserved and spent."""

    study: str
    """Digest of its plan."""
    rounds: int
    reserved: Counter[Event]
    charged: Counter[Event] = field(default_factory=Counter)
    charged_rounds: set[int] = field(default_factory=set)
    is_closed: bool = False
    keeps_reservation: bool = False
    """It was admitted by its privacy loss distribution only."""

    @property
    def committed(self) -> Counter[Event]:
        """What counts against the budget: all that was charged and, until it is given up, all that was reserved."""
        return self.charged if self.is_closed and not self.keeps_reservation else self.charged | self.reserved


Key = tuple[str, str, str]  # study, task, purpose


class Book:
    """The accounts of one population.

    Args:
        entries: Of its ledger, the first of which made it.

    Raises:
        ValueError: An entry is of a kind or form that is not known; ``args`` is that entry.
    """

    def __init__(self, entries: Iterable[Entry]) -> None:
        self.accounts: dict[str, Account] = {}
        self.charges: dict[Key, Counter[Event]] = {}
        remaining = iter(entries)
        self.terms = _read_terms(next(remaining))
        for entry in remaining:
            self.replay(entry)

    def replay(self, entry: Entry) -> None:
        """Take one entry more into account.

        Raises:
            ValueError: It is of a kind or form that is not known.
        """
        details = entry.details
        if entry.event not in {"reserved", "charged", "closed"}:
            raise ValueError(entry)
        try:
            study = str(details["study"])
            if entry.event == "reserved":
                self.accounts[study] = Account(
                    study=study,
                    rounds=int(details["rounds"]),
                    reserved=tally(load_events(str(details["events"]))),
                    keeps_reservation=bool(details["by_loss"]),
                )
            elif entry.event == "charged":
                counts = tally(load_events(str(details["events"])))
                # the oldest entries name no task: no task has such a name, so theirs are charged anew
                task = str(details.get("task", f"round {details['round']}, attempt {details['attempt']}"))
                self.charges[study, task, str(details["purpose"])] = counts
                self.accounts[study].charged += counts
                self.accounts[study].charged_rounds.add(int(details["round"]))
            else:
                self.accounts[study].is_closed = True
        except (KeyError, ValueError, PrivacyError):
            raise ValueError(entry) from None

    # --- what was spent ---

    def spent(self) -> Decimal:
        """Return the epsilon of all that was charged, at the budget's delta."""
        return self._epsilon([account.charged for account in self.accounts.values()])

    def committed(self) -> Decimal:
        """Return the epsilon of all that was charged or is still reserved."""
        return self._epsilon([account.committed for account in self.accounts.values()])

    def epsilon_of(self, counts: Counter[Event]) -> Decimal:
        """Return the epsilon of one study's releases, taken alone."""
        return round_up(epsilon_within(bundle(counts), float(self.terms.budget.delta)))

    def epsilon_of_all(self, parts: Sequence[Counter[Event]]) -> Decimal:
        """Return the epsilon that the summed divergences of several studies imply."""
        divergence = sum(rdp_at(bundle(part), self.terms.order) for part in parts)
        return round_up(epsilon_from_rdp(divergence, self.terms.order, float(self.terms.budget.delta)))

    def _epsilon(self, parts: Sequence[Counter[Event]]) -> Decimal:
        used = [part for part in parts if part.total()]
        if not used:
            return Decimal(0)
        is_planned = all(account.charged <= account.reserved for account in self.accounts.values())
        if len(self.accounts) > 1 or not is_planned:
            return self.epsilon_of_all(used)
        return min(self.epsilon_of_all(used), self.epsilon_of(used[0]))

    # --- what may be spent ---

    def check_ground(self, events: Sequence[Event]) -> None:
        """Let pass what is about the ledger's unit and relation.

        Raises:
            PrivacyError: It is about others.
        """
        terms = self.terms
        if common_ground(events) != (terms.unit, terms.relation):
            raise PrivacyError(
                f"The ledger of '{terms.population}' is about {terms.unit.value} with {terms.relation.value}; "
                "the plan is not.",
                advice="Losses of different units or relations are kept in different ledgers.",
            )

    def admit(self, wanted: Counter[Event], rounds: int) -> bool:
        """Let a new study pass that fits; return whether only its privacy loss distribution does.

        Raises:
            BudgetExceeded: It does not fit.
        """
        if self._fits([*(account.committed for account in self.accounts.values()), wanted]):
            return False
        if not self.accounts and self.terms.budget.allows(self.epsilon_of(wanted)):
            return True
        left = self._rounds_that_fit(wanted, rounds)
        raise BudgetExceeded(
            f"The study needs more than is left of the privacy budget of '{self.terms.population}': {left} of its "
            f"{rounds} rounds would fit.",
            rounds_left=left,
            advice="Ask for a plan with more noise or fewer rounds.",
        )

    def check_charge(self, study: str, wanted: Counter[Event]) -> None:
        """Let a release pass that was reserved, or fits beside all that was.

        Raises:
            BudgetExceeded: It was not, and does not.
        """
        name, account = self.terms.population, self.accounts.get(study)
        if account is None or account.is_closed:
            raise BudgetExceeded(
                f"The study has {'given up its' if account else 'no'} privacy budget of '{name}'.",
                rounds_left=0,
                advice="Approve its plan first.",
            )
        if account.charged + wanted <= account.reserved:
            return
        others = [other.committed for other in self.accounts.values() if other is not account]
        if not self._fits([*others, (account.charged + wanted) | account.reserved]):
            reserved = (max(0, account.reserved[event] - account.charged[event]) for event in wanted)
            raise BudgetExceeded(
                f"This release would overspend the privacy budget of '{name}'; {len(account.charged_rounds)} of the "
                f"plan's {account.rounds} rounds were charged.",
                rounds_left=min(left // need for left, need in zip(reserved, wanted.values(), strict=True)),
                advice="Rounds that were void stay charged; ask for a plan with more noise.",
            )

    def _fits(self, parts: Sequence[Counter[Event]]) -> bool:
        """Tell whether the divergences of all studies together are within the budget."""
        return self.terms.budget.allows(self.epsilon_of_all(parts))

    def _rounds_that_fit(self, wanted: Counter[Event], rounds: int) -> int:
        """Return how many of a refused plan's rounds the divergences leave room for."""
        order, budget = self.terms.order, self.terms.budget
        left = rdp_from_epsilon(float(budget.epsilon), order, float(budget.delta))
        left -= sum(rdp_at(bundle(account.committed), order) for account in self.accounts.values())
        each = rdp_at(bundle(wanted), order) / rounds
        return max(0, min(rounds - 1, int(left / each)))


def _read_terms(entry: Entry) -> Terms:
    details = entry.details
    if entry.event != "created" or details.get("format") != 1:
        raise ValueError(entry)
    try:
        return Terms(
            population=str(details["population"]),
            unit=Unit(str(details["unit"])),
            relation=Relation(str(details["relation"])),
            order=int(details["order"]),
            budget=Budget.of(str(details["epsilon"]), str(details["delta"])),
        )
    except (KeyError, ValueError, PrivacyError):
        raise ValueError(entry) from None
