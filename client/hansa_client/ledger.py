"""The privacy ledger: what has been spent of the privacy of one population, over all studies and for ever.

A population is people (or the site itself), not a file: a new version of the data is the same population, and nothing
ever sets a ledger back. There is one ``ledger/<population>.jsonl`` for each, a hash-chained journal as
``hansa_common.audit`` has it, written under a lock, so that two processes cannot spend the same rest twice.

Rules
-----

1. ``create`` fixes the budget, the unit of privacy, the neighbouring relation and the Renyi order, once.
2. A study is reserved whole, before its first round. It is admitted where the sum over **all** studies of their Renyi
   divergences at the fixed order implies at most the budget's epsilon: a filter that is valid though later studies
   depend on what earlier ones showed. The first study of a ledger is also admitted where its privacy loss distribution
   alone is within the budget; if that was needed, no second study ever is.
3. Every release is charged before it happens: training, metrics, counts, thresholds. What its study has reserved is
   there; what goes beyond (a round that is run again) must fit by rule 2, or ``BudgetExceeded`` is raised.
4. A task is charged once, by its name: a reply that was stored is sent again, and nothing new leaves. Every other task
   is another release, also where plan, round and attempt are the same: a plan that is run twice trains twice.
5. Nothing is given back: a void round was sent, an opened one was seen. ``close`` gives up what a study reserved and
   did not use, except where rule 2 needed the privacy loss distribution: choosing between both bounds by results would
   double delta.

Whoever can write to the site's disk can put back an old copy, which is a whole chain, too. So whoever charges notes
``length`` and ``head`` elsewhere: ``open_ledger`` takes them and refuses a ledger that is shorter or another.

Evolution: entries and details are added; a ledger with an entry of an unknown kind is refused, never skipped.
"""

import contextlib
import fcntl
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Final

from hansa_client.privacy_book import Account, Book, Purpose, Terms
from hansa_common.audit import Entry, Journal, Scalar, read
from hansa_common.errors import JournalError, PrivacyError, UsageError
from hansa_common.failpoints import reach
from hansa_common.files import storage
from hansa_common.privacy import (
    Budget,
    Event,
    Relation,
    Unit,
    best_order,
    check_delta,
    dump_events,
    load_events,
    rdp_at,
    rdp_from_epsilon,
    tally,
)

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_STUDY: Final = re.compile(r"[0-9a-f]{64}")


class Ledger:
    """One population's ledger; several processes may have it open.

    Args:
        path: Of the file, which ``create`` has made.

    Raises:
        UsageError: There is no such ledger.
        JournalError: Its chain is broken, or an entry is of a kind that this version does not know.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._size = -1
        with self._locked():
            pass

    # --- what is there ---

    @property
    def terms(self) -> Terms:
        """What was fixed when it was made."""
        return self._book.terms

    @property
    def length(self) -> int:
        """How many entries there were when it was last read."""
        return self._journal.length

    @property
    def head(self) -> str:
        """Hash of the last of them."""
        return self._journal.head

    def entries(self) -> list[Entry]:
        """Return all entries, oldest first."""
        with self._locked():
            return list(read(self._path))

    def accounts(self) -> list[Account]:
        """Return what each study has reserved and spent, in the order of reservation."""
        with self._locked():
            return list(self._book.accounts.values())

    def spent(self) -> Decimal:
        """Return the epsilon of all that was charged, at the budget's delta."""
        with self._locked():
            return self._book.spent()

    def committed(self) -> Decimal:
        """Return the epsilon of all that was charged or is still reserved."""
        with self._locked():
            return self._book.committed()

    def remaining(self) -> Decimal:
        """Return what no study has spent or reserved."""
        return self.terms.budget.remaining(self.committed())

    def epsilon_of(self, counts: Counter[Event]) -> Decimal:
        """Return the epsilon of one study's releases, taken alone; 0 for none."""
        return self._book.epsilon_of(counts) if counts.total() else Decimal(0)

    def curve(self) -> list[Decimal]:
        """Return the epsilon that was spent after each charge, from the divergences."""
        points: list[Decimal] = []
        charged: dict[str, Counter[Event]] = {}
        for entry in self.entries():
            if entry.event == "charged":
                study = str(entry.details["study"])
                charged[study] = charged.get(study, Counter()) + tally(load_events(str(entry.details["events"])))
                points.append(self._book.epsilon_of_all(list(charged.values())))
        return points

    # --- what changes it ---

    def reserve(self, study: str, events: Sequence[Event], *, rounds: int, units: int) -> None:
        """Set aside what a whole study will release, when its plan is approved; the same again changes nothing.

        Args:
            study: Digest of the plan.
            events: Of the whole plan, metrics and counts included; repeated rounds too, if they should be sure to fit.
            rounds: How many the plan has.
            units: How many of the unit the data has now.

        Raises:
            BudgetExceeded: It does not fit; ``rounds_left`` says how many of the rounds would.
            PrivacyError: Unit or relation are not the ledger's, the budget's delta is at least ``1 / units``, or the
                study was reserved with other events.
        """
        if not _STUDY.fullmatch(study) or rounds < 1 or units < 1:
            raise PrivacyError(f"reservation: found study {study[:100]!r}, {rounds} rounds, {units} units.")
        with self._locked():
            self._book.check_ground(events)
            check_delta(float(self.terms.budget.delta), units=units)
            wanted = tally(events)
            if (before := self._book.accounts.get(study)) is not None:
                if (before.reserved, before.rounds) != (wanted, rounds):
                    raise PrivacyError(
                        "This study was reserved with other events.", advice="A changed plan is another."
                    )
                return
            by_loss = self._book.admit(wanted, rounds)
            self._append(
                "reserved", study=study, rounds=rounds, units=units, events=dump_events(events), by_loss=by_loss
            )

    def charge(
        self, study: str, *, task: str, round_number: int, attempt: int, events: Sequence[Event], purpose: Purpose
    ) -> None:
        """Charge a release before it happens; it is on the disk when this returns.

        Args:
            study: Digest of the plan.
            task: Name of the task that the release answers, one for ever.
            round_number: Of the plan.
            attempt: At the round.
            events: What is released.
            purpose: What for.

        Raises:
            BudgetExceeded: It would overspend, or the study has not been reserved, or is closed.
            PrivacyError: Unit or relation are not the ledger's, or this release was charged with other events.
        """
        if round_number < 0 or attempt < 0 or not task:
            raise PrivacyError(f"charge: found task {task[:100]!r}, round {round_number}, attempt {attempt}.")
        with self._locked():
            self._book.check_ground(events)
            wanted = tally(events)
            if (before := self._book.charges.get((study, task, purpose.value))) is not None:
                if before != wanted:
                    raise PrivacyError("This release was charged before, with other events.")
                return
            self._book.check_charge(study, wanted)
            self._append(
                "charged",
                study=study,
                task=task,
                round=round_number,
                attempt=attempt,
                purpose=purpose.value,
                events=dump_events(events),
            )

    def close(self, study: str) -> None:
        """Give up what a study reserved and did not use: it has ended, and nothing of it is charged any more.

        Raises:
            PrivacyError: The study was never reserved.
        """
        with self._locked():
            if study not in self._book.accounts:
                raise PrivacyError("This study has reserved nothing.")
            if not self._book.accounts[study].is_closed:
                self._append("closed", study=study)

    # --- the file ---

    def _append(self, event: str, **details: Scalar) -> None:
        try:
            entry = self._journal.append(event, **details)
        except ValueError as error:
            raise PrivacyError(f"The ledger cannot hold this entry: {error}") from None
        reach("site.ledger.written")
        self._book.replay(entry)
        self._size = self._path.stat().st_size

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the population's lock, with everything read that any process has written."""
        with _lock(self._path), storage(self._path, "read"):
            if not self._path.exists():
                raise _missing(self._path)
            if self._path.stat().st_size != self._size:
                self._journal = Journal(self._path)  # cuts off a last line that a crash left behind
                self._book = _replay(self._path)
                self._size = self._path.stat().st_size
            yield


def create(
    folder: Path,
    population: str,
    *,
    unit: Unit,
    relation: Relation,
    budget: Budget,
    order: int | None = None,
) -> Ledger:
    """Make a population's ledger; what is given here is never changed.

    Args:
        folder: The site's ``ledger`` folder; made where it is missing.
        population: 1 to 63 lower-case letters, digits and hyphens.
        unit: Whose privacy it is about.
        relation: When data sets are neighbours.
        budget: For ever.
        order: Renyi order, an integer of at least 2; the best for the budget where it is left out.

    Raises:
        UsageError: The name is not allowed, or there is a ledger of this population.
        PrivacyError: The order gives no guarantee within the budget.
        StorageError: The disk fails.
    """
    epsilon, delta = float(budget.epsilon), float(budget.delta)
    order = best_order(epsilon, delta) if order is None else order
    rdp_at((), order)  # refuses an order that is none
    if rdp_from_epsilon(epsilon, order, delta) <= 0.0:
        raise PrivacyError(
            f"At order {order} no divergence implies epsilon {budget.epsilon}.", advice="Take a larger order."
        )
    path = ledger_path(folder, population)
    with storage(folder, "create"):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _lock(path):
        if Journal(path).length:  # a first line that a crash cut off is none
            raise UsageError(
                f"The population '{population}' has a ledger.", advice="New data of the same people go on with it."
            )
        Journal(path).append(
            "created",
            format=1,
            population=population,
            unit=unit.value,
            relation=relation.value,
            order=order,
            epsilon=str(budget.epsilon),
            delta=str(budget.delta),
        )
    return Ledger(path)


def open_ledger(folder: Path, population: str, *, length: int = 0, head: str = "") -> Ledger:
    """Open a ledger.

    Args:
        folder: The site's ``ledger`` folder.
        population: Its name.
        length: How many entries it had when somebody looked, noted elsewhere.
        head: The hash of the last of those.

    Raises:
        UsageError: There is none.
        JournalError: Its chain is broken, or does not hold what was noted: an old copy was put back.
    """
    ledger = Ledger(ledger_path(folder, population))
    if length and (ledger.length < length or ledger.entries()[length - 1].hash != head):
        raise JournalError(
            f"The ledger of '{population}' has lost entries: an old copy was put back.",
            advice="Restore the newest copy; until then nothing is spent.",
        )
    return ledger


def populations(folder: Path) -> list[str]:
    """Return the names of all populations that have a ledger."""
    return sorted(path.stem for path in folder.glob("*.jsonl"))


def ledger_path(folder: Path, population: str) -> Path:
    """Return where a population's ledger is.

    Raises:
        UsageError: The name is not allowed.
    """
    if not _NAME.fullmatch(population):
        raise UsageError(
            f"population: found {population[:100]!r}.",
            advice="Allowed are 1 to 63 lower-case letters, digits and hyphens, the first no hyphen.",
        )
    return folder / f"{population}.jsonl"


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    if not path.parent.is_dir():
        raise _missing(path)
    with storage(path, "lock"):
        descriptor = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _replay(path: Path) -> Book:
    entries = list(read(path))
    if not entries:
        raise _missing(path)
    try:
        book = Book(entries)
    except ValueError as error:
        entry: Entry = error.args[0]
        raise JournalError(
            f"{path}, line {entry.number}: '{entry.event}' is no entry that this version knows.",
            advice="Use the version of Hansa that wrote it; nothing is spent until then.",
        ) from None
    if book.terms.population != path.stem:
        raise JournalError(f"{path} is the ledger of '{book.terms.population}'.", advice="Give the file its name back.")
    return book


def _missing(path: Path) -> UsageError:
    return UsageError(f"There is no privacy ledger {path}.", advice="Its operator makes it, once: hansa site budget")
