"""A masked study that was stopped while its last model was explained, and resumed: the sites' memory goes on."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hansa_client.simulated_masking import SimulatedMasking
from hansa_common.errors import MaskingRefused, StudyFailed
from hansa_common.messages import (
    EvaluateTask,
    ExplainTask,
    MaskedEvaluated,
    MaskedExplained,
    MaskingTask,
    Message,
    Opened,
)
from hansa_common.metrics import ClassificationCounts
from hansa_common.plan import StudyPlan
from hansa_common.prepared import Prepared
from hansa_common.protection import kind_of
from hansa_server.closing import LastModel, close_masked
from hansa_server.exchange import Answer, Deadline
from hansa_server.masked import Job, MaskedRounds, MaskedSum
from hansa_server.panel import Panel
from hansa_server.rounds import counts_fit
from hansa_server.store import RunFolder

MODEL = np.linspace(-1.0, 1.0, 5, dtype=np.float32)
COUNTS = np.array([7, 1 << 40], np.uint64)
MASKS: dict[str, Any] = {"maximum_examples": 2_000, "secure_aggregation": {"coordinate_range": 1.0, "cohort": "fixed"}}


class Sites:
    """The plan's sites, each with its memory; ``change`` is what a lying server makes of a task for one of them."""

    def __init__(self, plan: StudyPlan) -> None:
        names = SimulatedMasking(plan, "site-1", b"").terms.sites
        self.masking = {name: SimulatedMasking(plan, name, b"") for name in names}
        self.opened: Mapping[str, Opened] = {
            name: masking.introduce(
                Opened(
                    plan_digest=plan.digest(),
                    site=name,
                    train=9,
                    validation=0,
                    test=0,
                    class_counts=(),
                    origin="",
                    version="1",
                    device="cpu",
                )
            )
            for name, masking in self.masking.items()
        }
        self.shown: Mapping[str, ClassificationCounts] = {}  # by site-1, beside its masked counts
        self.change: Callable[[str, Message], Message] = lambda _site, task: task

    def ask(self, requests: Sequence[tuple[str, Message]], deadline: Deadline) -> Iterator[tuple[str, Answer]]:
        assert deadline.left
        for site, task in requests:
            try:
                yield site, Answer(node=0, message=self._answer(site, self.change(site, task)))
            except MaskingRefused as error:
                yield site, Answer(node=0, failure=error.message)

    def _answer(self, site: str, task: Message) -> Message:
        header, masking = task.header, self.masking[site]
        if isinstance(header, MaskingTask):
            return masking.answer(task)
        assert isinstance(header, EvaluateTask | ExplainTask)
        sums = COUNTS.copy()
        statement = masking.cover(task, np.zeros(0, masking.terms.dtype), sums)
        about: dict[str, Any] = {
            "plan_digest": header.plan_digest,
            "round": header.round,
            "attempt": header.attempt,
            "site": site,
            "seconds": 0.0,
        }
        if isinstance(header, ExplainTask):
            return Message(header=MaskedExplained(**about), sums=sums, statement=statement)
        shown = self.shown if site == "site-1" else {}
        return Message(header=MaskedEvaluated(**about), sums=sums, statement=statement, counts=shown)

    def conduct(self, plan: StudyPlan, folder: RunFolder, run: int) -> MaskedRounds:
        return MaskedRounds(
            plan=plan,
            sites=tuple(self.masking),
            opened=self.opened,
            ask=self.ask,
            folder=folder,
            run=run,
            said=lambda _site, _problem: None,
            signers={},
        )


@pytest.fixture
def plan(make_plan: Callable[..., StudyPlan]) -> StudyPlan:
    return make_plan(privacy=MASKS)


def closing(plan: StudyPlan, rounds: MaskedRounds, kind: type[EvaluateTask | ExplainTask], place: int) -> list[int]:
    prepared = Prepared(mean=(0.0,), deviation=(1.0,))
    number, digest = rounds.number_after(place), plan.digest()

    def task(attempt: int, _next: int) -> EvaluateTask | ExplainTask:
        return kind(plan_digest=digest, round=number, attempt=attempt, prepared=prepared)

    sums: list[int] = rounds.sum(Job(number=number, parameters=MODEL, size=0, counts=2, task=task)).sums.tolist()
    return sums


def test_the_last_model_is_evaluated_again_after_its_explanation_was_begun(plan: StudyPlan, tmp_path: Path) -> None:
    sites, folder = Sites(plan), RunFolder.create(tmp_path / "run")
    whole = (COUNTS * np.uint64(len(sites.masking))).tolist()
    for run in (1, 2, 3):
        rounds = sites.conduct(plan, folder, run)
        assert closing(plan, rounds, EvaluateTask, 1) == whole
        assert closing(plan, rounds, ExplainTask, 2) == whole


def test_a_server_that_prepares_one_sites_features_otherwise_reads_no_sum(
    plan: StudyPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sites = Sites(plan)
    dead = Prepared(mean=(0.0,), deviation=(1e300,))

    def single_out(site: str, task: Message) -> Message:
        header = task.header
        if site == "site-1" or not isinstance(header, EvaluateTask):
            return task
        return Message(
            header=header.model_copy(update={"prepared": dead}), vector=task.vector, statement=task.statement
        )

    sites.change = single_out
    monkeypatch.setattr("hansa_server.masked._REPEATS", 1)
    rounds = sites.conduct(plan, RunFolder.create(tmp_path / "run"), 1)
    with pytest.raises(StudyFailed, match="came to nothing"):
        closing(plan, rounds, EvaluateTask, 1)


def counted(examples: int, *, histograms: bool) -> ClassificationCounts:
    logits, labels = np.full((examples, 10), 0.1, np.float32), np.arange(examples) % 10
    return ClassificationCounts.of(logits, labels, np.ones(examples), histograms=histograms)


@pytest.mark.parametrize(
    "lie",
    [
        {"validation": counted(4, histograms=False)},
        {"validation": counted(4, histograms=False), "test": counted(5, histograms=False)},
        {"validation": counted(4, histograms=False), "test": counted(6, histograms=True)},
        {"validation": counted(4, histograms=True), "test": counted(5, histograms=True)},
    ],
    ids=["no test", "no histograms", "more examples", "histograms"],
)
def test_what_a_site_shows_beside_its_masked_counts_is_what_it_declared_or_nothing(
    plan: StudyPlan, tmp_path: Path, lie: Mapping[str, ClassificationCounts]
) -> None:
    sites = Sites(plan)
    sizes = {"validation": 4, "test": 5}
    sites.opened = {name: opened.model_copy(update=sizes) for name, opened in sites.opened.items()}
    folder = RunFolder.create(tmp_path / "run")
    digest, kind = plan.digest(), kind_of(plan)

    def ask(requests: Sequence[tuple[int, Message]]) -> Iterator[Answer]:
        raise AssertionError(requests)

    panel = Panel(
        plan=plan, digest=digest, kind=kind, opened=sites.opened, nodes=dict.fromkeys(sites.opened, 0), ask_nodes=ask
    )
    seen: list[Mapping[str, Mapping[str, Any]]] = []

    class Summed:
        def __init__(self, run: int) -> None:
            self._rounds = sites.conduct(plan, folder, run)
            self.number_after = self._rounds.number_after

        def sum(self, job: Job) -> MaskedSum:
            total = self._rounds.sum(replace(job, counts=2))
            seen.append(total.shown)
            return total

    last = LastModel(parameters=MODEL, prepared=None, basis={})
    truth = {"validation": counted(4, histograms=False), "test": counted(5, histograms=True)}
    for run, sites.shown in enumerate((truth, lie), start=1):
        masked: Any = Summed(run)
        close_masked(panel, masked, last)
    assert [list(shown) for shown in seen] == [["site-1"], []]


def test_counts_of_a_masked_round_are_of_the_declared_validation_split(plan: StudyPlan) -> None:
    right = {"validation": counted(4, histograms=False)}
    assert counts_fit(plan.privacy, right, 4)
    for wrong in (
        {},
        right | {"test": counted(4, histograms=False)},
        {"validation": counted(5, histograms=False)},
        {"validation": counted(4, histograms=True)},
    ):
        assert not counts_fit(plan.privacy, wrong, 4)
