"""The privacy ledger: the mistakes that published frameworks made, tried here, and a crash at every place."""

import math
import multiprocessing
import os
import signal
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from hansa_client import ledger as module
from hansa_client.folder import SiteFolder
from hansa_client.ledger import Ledger, create, open_ledger, populations
from hansa_client.privacy_book import Purpose
from hansa_common import audit
from hansa_common.audit import Journal, read
from hansa_common.errors import BudgetExceeded, JournalError, PrivacyError, StorageError, UsageError
from hansa_common.failpoints import VARIABLE
from hansa_common.privacy import (
    Budget,
    DistributedGaussian,
    Event,
    Gaussian,
    NoisedCounts,
    Relation,
    Unit,
    epsilon_pld,
)

A, B, C = ("a" * 64, "b" * 64, "c" * 64)
EVERY = Relation.ADD_OR_REMOVE_ONE


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def rounds(count: int, noise_multiplier: float = 10.0) -> list[Event]:
    return [Gaussian(unit=Unit.EXAMPLE, noise_multiplier=noise_multiplier, count=count)]


def make(folder: Path, *, epsilon: str = "8", order: int | None = 4, unit: Unit = Unit.EXAMPLE) -> Ledger:
    return create(
        folder / "ledger", "patients", unit=unit, relation=EVERY, budget=Budget.of(epsilon, "1e-5"), order=order
    )


def charge(ledger: Ledger, study: str, number: int, *, attempt: int = 1, **changes: Any) -> None:
    values: dict[str, Any] = {
        "events": rounds(1),
        "purpose": Purpose.TRAINING,
        "task": f"run:{number}:{attempt}",
    } | changes
    ledger.charge(study, round_number=number, attempt=attempt, **values)


def by_hand(*counts_and_multipliers: tuple[int, float], order: int = 4) -> float:
    """Gaussians at one order, converted as Canonne, Kamath and Steinke do."""
    divergence = sum(count * order / (2 * z * z) for count, z in counts_and_multipliers)
    return divergence + math.log(1 - 1 / order) - math.log(1e-5 * order) / (order - 1)


def test_what_is_charged_is_there_for_the_next_process(tmp_path: Path) -> None:
    ledger = make(tmp_path)
    assert ledger.spent() == 0
    assert ledger.remaining() == 8
    ledger.reserve(A, rounds(50), rounds=50, units=200)
    for number in range(1, 4):
        charge(ledger, A, number)
    again = open_ledger(tmp_path / "ledger", "patients")
    assert again.spent() == ledger.spent()
    assert float(again.spent()) == pytest.approx(epsilon_pld(rounds(3), 1e-5), abs=2e-6)
    assert float(again.committed()) == pytest.approx(epsilon_pld(rounds(50), 1e-5), abs=2e-6)
    assert again.remaining() == Decimal(8) - again.committed()
    assert [entry.event for entry in again.entries()] == ["created", "reserved", "charged", "charged", "charged"]
    assert populations(tmp_path / "ledger") == ["patients"]


def test_across_studies_divergences_of_the_fixed_order_add_up(tmp_path: Path) -> None:
    ledger = make(tmp_path)
    ledger.reserve(A, rounds(50, 12.0), rounds=50, units=200)
    ledger.reserve(B, rounds(40, 9.0), rounds=40, units=200)
    assert float(ledger.committed()) == pytest.approx(by_hand((50, 12.0), (40, 9.0)), abs=2e-6)
    charge(ledger, A, 1, events=rounds(1, 12.0))
    charge(ledger, B, 1, events=rounds(1, 9.0))
    assert float(ledger.spent()) == pytest.approx(by_hand((1, 12.0), (1, 9.0)), abs=2e-6)
    assert ledger.curve()[-1] == ledger.spent()


def test_a_new_run_a_new_round_or_new_data_never_start_from_nothing(tmp_path: Path) -> None:
    """Known mistake: epsilon is reset for each run."""
    ledger = make(tmp_path)
    ledger.reserve(A, rounds(50), rounds=50, units=200)
    for number in range(1, 51):
        charge(ledger, A, number)
    before = ledger.spent()
    ledger.reserve(B, rounds(50), rounds=50, units=900)  # other data of the same people, another number of them
    assert open_ledger(tmp_path / "ledger", "patients").committed() > before
    with pytest.raises(UsageError, match="has a ledger"):
        make(tmp_path)
    assert open_ledger(tmp_path / "ledger", "patients").spent() >= before


def test_a_ledger_whose_charges_name_no_task_is_read_and_goes_on(tmp_path: Path) -> None:
    ledger = make(tmp_path)
    ledger.reserve(A, rounds(50), rounds=50, units=200)
    charge(ledger, A, 1)
    kept = next(entry for entry in ledger.entries() if entry.event == "charged").details
    old = {name: value for name, value in kept.items() if name != "task"}
    Journal(tmp_path / "ledger" / "patients.jsonl").append("charged", **old | {"round": 2})
    again = open_ledger(tmp_path / "ledger", "patients")
    for _ in range(2):
        charge(again, A, 2)
    assert [entry.details.get("task") for entry in again.entries()[2:]] == ["run:1:1", None, "run:2:1"]


def test_a_void_round_is_charged_again_when_it_is_run_again(tmp_path: Path) -> None:
    ledger = make(tmp_path)
    ledger.reserve(A, rounds(10), rounds=10, units=200)
    charge(ledger, A, 1, attempt=1)
    once = ledger.spent()
    charge(ledger, A, 1, attempt=2)
    assert ledger.spent() > once
    assert ledger.accounts()[0].charged.total() == 2


def test_a_task_that_is_delivered_again_is_charged_once(tmp_path: Path) -> None:
    ledger, other = make(tmp_path), open_ledger(tmp_path / "ledger", "patients")
    ledger.reserve(A, rounds(10), rounds=10, units=200)
    other.reserve(A, rounds(10), rounds=10, units=200)
    for handle in (ledger, other, open_ledger(tmp_path / "ledger", "patients")):
        charge(handle, A, 1)
    assert ledger.length == 3
    with pytest.raises(PrivacyError, match="other events"):
        charge(ledger, A, 1, events=rounds(1, 11.0))
    with pytest.raises(PrivacyError, match="other events"):
        ledger.reserve(A, rounds(11), rounds=10, units=200)


def test_metrics_counts_and_thresholds_are_charged_beside_training(tmp_path: Path) -> None:
    """Known mistake: they leave outside the budget."""
    ledger = make(tmp_path)
    count: list[Event] = [NoisedCounts(unit=Unit.EXAMPLE, epsilon=0.05)]
    ledger.reserve(A, [*rounds(2), *(3 * count)], rounds=2, units=200)
    charge(ledger, A, 1)
    spent = [ledger.spent()]
    for purpose in (Purpose.EVALUATION, Purpose.COUNT, Purpose.THRESHOLD):
        charge(ledger, A, 1, events=count, purpose=purpose)
        spent.append(ledger.spent())
    assert spent == sorted(set(spent))
    with pytest.raises(PrivacyError, match="found nothing"):
        charge(ledger, A, 2, events=[])


def test_the_study_that_would_overspend_is_refused_and_told_how_much_of_it_fits(tmp_path: Path) -> None:
    ledger = make(tmp_path)
    ledger.reserve(A, rounds(60, 8.0), rounds=60, units=200)
    with pytest.raises(BudgetExceeded, match=r"\d+ of its 100 rounds would fit") as caught:
        ledger.reserve(B, rounds(100, 6.0), rounds=100, units=200)
    left = caught.value.rounds_left
    assert by_hand((60, 8.0), (left, 6.0)) <= 8 < by_hand((60, 8.0), (left + 1, 6.0))
    ledger.reserve(B, rounds(left, 6.0), rounds=left, units=200)
    assert ledger.remaining() >= 0
    assert caught.value.code == "budget"
    assert not any(character.isdigit() for character in caught.value.public)


def test_the_round_that_would_overspend_is_refused(tmp_path: Path) -> None:
    ledger = make(tmp_path)
    ledger.reserve(A, rounds(3, 3.0), rounds=3, units=200)
    charged = 0
    while by_hand((charged + 1, 3.0)) <= 8:
        charged += 1
        charge(ledger, A, 1 + charged % 3, attempt=charged, events=rounds(1, 3.0))
    with pytest.raises(BudgetExceeded, match="3 of the plan's 3 rounds were charged") as caught:
        charge(ledger, A, 1, attempt=1000, events=rounds(1, 3.0))
    assert by_hand((charged, 3.0)) <= 8 < by_hand((charged + 1, 3.0))
    assert caught.value.rounds_left == 0
    assert ledger.spent() <= 8
    before = ledger.length
    with pytest.raises(BudgetExceeded):
        charge(open_ledger(tmp_path / "ledger", "patients"), A, 3, attempt=999, events=rounds(1, 3.0))
    assert ledger.length == before


def test_the_loss_distribution_admits_a_first_study_and_then_no_other(tmp_path: Path) -> None:
    """50 rounds at z = 4 are 8.596 by the loss distribution and more by any divergence."""
    ledger = make(tmp_path, epsilon="8.7")
    ledger.reserve(A, rounds(50, 4.0), rounds=50, units=200)
    assert float(ledger.committed()) == pytest.approx(8.596, abs=1e-3)
    for number in range(1, 51):
        charge(ledger, A, number, events=rounds(1, 4.0))
    with pytest.raises(BudgetExceeded):
        charge(ledger, A, 51, events=rounds(1, 4.0))
    with pytest.raises(BudgetExceeded):
        ledger.reserve(B, rounds(1, 100.0), rounds=1, units=200)
    assert ledger.spent() <= Decimal("8.7")


def test_closing_gives_back_what_was_not_used_unless_only_the_loss_distribution_admitted_it(tmp_path: Path) -> None:
    ledger = make(tmp_path)
    ledger.reserve(A, rounds(90, 8.0), rounds=90, units=200)
    charge(ledger, A, 1, events=rounds(1, 8.0))
    with pytest.raises(BudgetExceeded):
        ledger.reserve(B, rounds(90, 8.0), rounds=90, units=200)
    ledger.close(A)
    ledger.close(A)
    ledger.reserve(B, rounds(90, 8.0), rounds=90, units=200)
    assert float(ledger.committed()) == pytest.approx(by_hand((91, 8.0)), abs=2e-6)
    with pytest.raises(BudgetExceeded, match="given up"):
        charge(ledger, A, 2, events=rounds(1, 8.0))
    tight = make(tmp_path / "other", epsilon="8.7")
    tight.reserve(A, rounds(50, 4.0), rounds=50, units=200)
    tight.close(A)
    with pytest.raises(BudgetExceeded):
        tight.reserve(B, rounds(1, 100.0), rounds=1, units=200)


def test_units_and_relations_never_mix(tmp_path: Path) -> None:
    """Known mistake: rows, people and sites in one sum."""
    ledger = make(tmp_path)
    ledger.reserve(A, rounds(5), rounds=5, units=200)
    others: list[Event] = [
        Gaussian(unit=Unit.SITE, noise_multiplier=10.0),
        Gaussian(unit=Unit.EXAMPLE, relation=Relation.REPLACE_ONE, noise_multiplier=10.0),
    ]
    for other in others:
        with pytest.raises(PrivacyError, match="is about example with add_or_remove_one"):
            ledger.reserve(B, [other], rounds=1, units=200)
        with pytest.raises(PrivacyError, match="is about"):
            charge(ledger, A, 1, events=[other])
        with pytest.raises(PrivacyError, match="do not add up"):
            ledger.reserve(B, [other, *rounds(1)], rounds=1, units=200)
    assert ledger.length == 2


def test_a_delta_of_a_whole_person_is_refused(tmp_path: Path) -> None:
    """Known mistake: delta at least 1/n."""
    ledger = make(tmp_path)
    with pytest.raises(PrivacyError, match="publishing one of them whole"):
        ledger.reserve(A, rounds(5), rounds=5, units=100_000)
    ledger.reserve(A, rounds(5), rounds=5, units=99_999)


def test_what_was_not_approved_is_not_charged(tmp_path: Path) -> None:
    ledger = make(tmp_path)
    with pytest.raises(BudgetExceeded, match="no privacy budget"):
        charge(ledger, A, 1)
    with pytest.raises(PrivacyError, match="reserved nothing"):
        ledger.close(A)
    for study, count, units in (("short", 1, 9), (A, 0, 9), (A, 1, 0)):
        with pytest.raises(PrivacyError, match="reservation"):
            ledger.reserve(study, rounds(5), rounds=count, units=units)
    ledger.reserve(A, rounds(5), rounds=5, units=9)
    with pytest.raises(PrivacyError, match="round -1"):
        charge(ledger, A, -1)


def test_a_ledger_s_terms_are_fixed_and_must_guarantee_something(tmp_path: Path) -> None:
    ledger = make(tmp_path, order=None, unit=Unit.SITE)
    assert ledger.terms.unit is Unit.SITE
    assert 2 <= ledger.terms.order <= 8
    with pytest.raises(UsageError, match="has a ledger"):
        make(tmp_path, epsilon="100")
    for order, message in ((2, "larger order"), (1, "Renyi order")):
        with pytest.raises(PrivacyError, match=message):
            make(tmp_path / "small", epsilon="0.5", order=order)
    for name in ("", "../x", "Patients", "-a", "a" * 64):
        with pytest.raises(UsageError, match="population"):
            create(tmp_path, name, unit=Unit.SITE, relation=EVERY, budget=Budget.of("1", "1e-5"))
    with pytest.raises(UsageError, match="no privacy ledger"):
        open_ledger(tmp_path / "ledger", "customers")
    with pytest.raises(UsageError, match="no privacy ledger"):
        open_ledger(tmp_path / "nowhere", "customers")
    assert populations(tmp_path / "nowhere") == []


def test_a_changed_ledger_spends_nothing_any_more(tmp_path: Path) -> None:
    ledger = make(tmp_path)
    ledger.reserve(A, rounds(5), rounds=5, units=200)
    charge(ledger, A, 1)
    path = tmp_path / "ledger" / "patients.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b'"round":1', b'"round":2'))
    with pytest.raises(JournalError, match="it was changed"):
        Ledger(path)
    path.write_bytes(whole)
    Journal(path).append("gift", study=A)
    with pytest.raises(JournalError, match="no entry that this version knows"):
        Ledger(path)
    with pytest.raises(JournalError):
        charge(ledger, A, 2)  # a handle that was open before
    path.write_bytes(whole)
    path.rename(tmp_path / "ledger" / "others.jsonl")
    with pytest.raises(JournalError, match="ledger of 'patients'"):
        Ledger(tmp_path / "ledger" / "others.jsonl")


def test_an_old_copy_is_noticed_by_whoever_noted_the_head(tmp_path: Path) -> None:
    ledger = make(tmp_path)
    ledger.reserve(A, rounds(5), rounds=5, units=200)
    path = tmp_path / "ledger" / "patients.jsonl"
    old = path.read_bytes()
    charge(ledger, A, 1)
    noted: dict[str, Any] = {"length": ledger.length, "head": ledger.head}
    charge(ledger, A, 2)
    assert open_ledger(path.parent, "patients", **noted).length == 4
    path.write_bytes(old)
    with pytest.raises(JournalError, match="an old copy was put back"):
        open_ledger(path.parent, "patients", **noted)
    charge(open_ledger(path.parent, "patients"), A, 3)  # as long as the noted one, and another
    with pytest.raises(JournalError, match="an old copy was put back"):
        open_ledger(path.parent, "patients", **noted)


def test_what_cannot_be_written_is_not_charged_and_not_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = make(tmp_path)
    ledger.reserve(A, rounds(5), rounds=5, units=200)
    with monkeypatch.context() as patch:
        patch.setattr(audit, "sync_file", _fail)
        with pytest.raises(StorageError):
            charge(ledger, A, 1)
    assert ledger.spent() == 0
    charge(ledger, A, 1)
    assert ledger.length == 3


def _fail(*_: object) -> None:
    raise OSError(5, "Input/output error")


def test_the_distributed_gaussian_is_charged_by_its_divergence(tmp_path: Path) -> None:
    ledger = make(tmp_path, unit=Unit.SITE)
    event = DistributedGaussian(
        unit=Unit.SITE, sensitivity=1000.0, share_deviation=5000.0, shares=4, dimension=100, count=5
    )
    ledger.reserve(A, [event], rounds=5, units=10)
    assert 0 < ledger.committed() < 8


def test_leaving_a_federation_does_not_forget_what_was_spent(tmp_path: Path) -> None:
    ledger = make(tmp_path)
    ledger.reserve(A, rounds(5), rounds=5, units=200)
    charge(ledger, A, 1)
    SiteFolder(tmp_path).forget()
    assert open_ledger(tmp_path / "ledger", "patients").spent() == ledger.spent() > 0


_CHARGE = """
import sys
from pathlib import Path
from hansa_client.ledger import open_ledger
from hansa_client.privacy_book import Purpose
from hansa_common.privacy import Gaussian, Unit
ledger = open_ledger(Path(sys.argv[1]), "patients")
event = Gaussian(unit=Unit.EXAMPLE, noise_multiplier=10.0)
ledger.charge("a" * 64, task="run:1:1", round_number=1, attempt=1, events=[event], purpose=Purpose.TRAINING)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "was_written"), [("journal.append", False), ("journal.sync", True), ("site.ledger.written", True)]
)
def test_a_killed_process_leaves_the_release_charged_or_not_and_its_redelivery_charges_once(
    tmp_path: Path, place: str, was_written: bool
) -> None:
    ledger = make(tmp_path)
    ledger.reserve(A, rounds(5), rounds=5, units=200)
    folder = tmp_path / "ledger"
    armed = os.environ | {VARIABLE: f"{place}@1:{tmp_path / 'mark'}"}
    command = [sys.executable, "-c", _CHARGE, str(folder)]
    assert subprocess.run(command, env=armed, check=False).returncode == -signal.SIGKILL
    assert open_ledger(folder, "patients").accounts()[0].charged.total() == was_written
    subprocess.run(command, env=armed, check=True)
    assert open_ledger(folder, "patients").accounts()[0].charged.total() == 1


def _spend(path: Path, start: Any, done: Any) -> None:
    ledger = Ledger(path)
    start.wait()
    spent = 0
    for attempt in range(1, 60):
        try:
            charge(ledger, A, os.getpid(), attempt=attempt, events=rounds(1, 3.0))
            spent += 1
        except BudgetExceeded:
            break
    done.put(spent)


def test_two_processes_never_spend_the_same_rest(tmp_path: Path) -> None:
    ledger = make(tmp_path)
    ledger.reserve(A, rounds(1, 3.0), rounds=1, units=200)
    context = multiprocessing.get_context("fork")
    start, done = context.Event(), context.Queue()
    path = tmp_path / "ledger" / "patients.jsonl"
    processes = [context.Process(target=_spend, args=(path, start, done)) for _ in range(2)]
    for process in processes:
        process.start()
    start.set()
    spent = sum(done.get(timeout=60) for _ in processes)
    for process in processes:
        process.join()
    assert by_hand((spent, 3.0)) <= 8 < by_hand((spent + 1, 3.0))
    assert sum(entry.event == "charged" for entry in read(path)) == spent


class Crash(BaseException):
    """The process is gone."""


class LedgerMachine(RuleBasedStateMachine):
    """Two handles, any order of reservations and charges, a crash at every place; a model in plain Python beside it."""

    studies = Bundle("studies")

    @initialize(epsilon=st.sampled_from(["5", "8", "20"]))
    def begin(self, epsilon: str) -> None:
        import tempfile

        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name)
        self.budget = float(epsilon)
        self.handles = [make(self.path, epsilon=epsilon), open_ledger(self.path / "ledger", "patients")]
        self.reserved: dict[str, int] = {}
        self.charged: dict[tuple[str, int, int], int] = {}
        self.closed: set[str] = set()

    def committed(self) -> float:
        total = 0
        for study, count in self.reserved.items():
            charged = sum(self.charged[key] for key in self.charged if key[0] == study)
            total += charged if study in self.closed else max(charged, count)
        return total / 50

    def crash_at(self, place: str) -> pytest.MonkeyPatch:
        patch = pytest.MonkeyPatch()

        def die(*_: object) -> None:
            raise Crash

        def tear(path: Path, content: bytes) -> None:
            with path.open("ab") as file:
                file.write(content[: len(content) // 2])
            raise Crash

        if place == "before":
            patch.setattr(audit, "reach", lambda name: die() if name == "journal.append" else None)
        elif place == "torn":
            patch.setattr(audit, "_append", tear)
        elif place == "after":
            patch.setattr(module, "reach", die)
        return patch

    def attempt(self, place: str, act: Any) -> bool | None:
        """Return whether the entry is there: also where the process died behind it; None where it was refused."""
        patch = self.crash_at(place)
        length = sum(1 for _ in read(self.path / "ledger" / "patients.jsonl"))
        try:
            act()
        except Crash:
            self.handles = [open_ledger(self.path / "ledger", "patients") for _ in range(2)]
            now = sum(1 for _ in read(self.path / "ledger" / "patients.jsonl"))
            assert now - length == (place == "after")
            return place == "after"
        except BudgetExceeded:
            return None
        finally:
            patch.undo()
        return True

    @rule(
        target=studies,
        number=st.integers(0, 3),
        count=st.integers(1, 60),
        handle=st.integers(0, 1),
        place=st.sampled_from(["", "", "before", "torn", "after"]),
    )
    def reserve(self, number: int, count: int, handle: int, place: str) -> str:
        study = "abcd"[number] * 64
        if study in self.reserved:
            return study
        after = self.committed() + count / 50
        done = self.attempt(
            place, lambda: self.handles[handle].reserve(study, rounds(count, 5 * 2**0.5), rounds=count, units=50)
        )
        expected = by_hand((1, 2**0.5 * 5 / math.sqrt(after * 50))) <= self.budget
        if done is None:
            assert not expected
        elif done:
            assert expected or not self.reserved
            self.reserved[study] = count
        return study

    @rule(
        study=studies,
        number=st.integers(1, 3),
        attempt=st.integers(1, 3),
        handle=st.integers(0, 1),
        place=st.sampled_from(["", "", "before", "torn", "after"]),
    )
    def charge(self, study: str, number: int, attempt: int, handle: int, place: str) -> None:
        key = (study, number, attempt)
        done = self.attempt(
            "" if key in self.charged else place,
            lambda: charge(self.handles[handle], study, number, attempt=attempt, events=rounds(1, 5 * 2**0.5)),
        )
        if done:
            assert study in self.reserved
            self.charged[key] = 1
        if done is None:
            assert key not in self.charged

    @rule(study=studies, handle=st.integers(0, 1))
    def close(self, study: str, handle: int) -> None:
        if study in self.reserved:
            self.handles[handle].close(study)
            account = next(account for account in self.handles[1 - handle].accounts() if account.study == study)
            if not account.keeps_reservation:
                self.closed.add(study)

    @rule()
    def restart(self) -> None:
        self.handles = [open_ledger(self.path / "ledger", "patients") for _ in range(2)]

    @invariant()
    def nothing_is_lost_and_the_budget_holds(self) -> None:
        if not hasattr(self, "handles"):
            return
        for handle in self.handles:
            assert handle.committed() <= handle.terms.budget.epsilon
            accounts = {account.study: account for account in handle.accounts()}
            assert {study: account.reserved.total() for study, account in accounts.items()} == self.reserved
            assert sum(account.charged.total() for account in accounts.values()) == sum(self.charged.values())

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            self.folder.cleanup()


LedgerMachine.TestCase.settings = settings(
    max_examples=20, stateful_step_count=20, derandomize=True, deadline=None, database=None
)
TestLedgerMachine = pytest.mark.filterwarnings("default")(LedgerMachine.TestCase)
