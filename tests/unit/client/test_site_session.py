"""A real site's half of a task: what it asks before anything runs, and what it lets out afterwards."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from hansa_client.masking import Masking
from hansa_client.session import SiteSession
from hansa_client.site_data import real_site
from hansa_client.site_state import PERSONAL, Kept, State, StateFolder
from hansa_client.work import Work
from hansa_common.errors import (
    ContractViolation,
    DataError,
    HansaError,
    NotApproved,
    StorageError,
    TaskRefused,
    TrainingError,
    WorkerLost,
)
from hansa_common.messages import (
    BaselineTask,
    Envelope,
    EvaluateTask,
    Explained,
    ExplainTask,
    Initial,
    InitialTask,
    Message,
    Opened,
    OpenTask,
    Refusal,
    TrainTask,
    Update,
    decode,
    encode,
)
from hansa_common.metrics import ClassificationKind, Counts, CountsKind
from hansa_common.parameters import ParameterSpec, Tensor
from hansa_common.plan import StudyPlan
from hansa_common.simulation_plan import SourcePlan

CANARY = "patient-4711"
SITE = "site-b"


class InProcess:
    """A worker of this process, that a test can make misbehave."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.failure: Exception | None = None
        self.change: Callable[[Message], Message] = lambda reply: reply
        self._work: Work | None = None

    def open(self, plan: StudyPlan, *, name: str, index: int, source: SourcePlan, timeout: float) -> int:
        self.calls.append(f"open {name} {index}")
        self._work = Work(plan, real_site(plan, name=name, index=index, source=source), "cpu")
        return self._work.parameters

    def do(self, message: Message, *, kind: CountsKind, timeout: float) -> Message:
        self.calls.append(message.header.kind)
        if self.failure is not None:
            raise self.failure
        assert self._work is not None
        return self.change(self._work.do(message))

    def do_with_state(
        self, message: Message, state: State, *, kind: CountsKind, timeout: float
    ) -> tuple[Message, Kept]:
        self.calls.append(f"{message.header.kind} on {', '.join(sorted(state)) or 'nothing'}")
        assert self._work is not None
        reply, kept = self._work.do_with_state(message, state)
        return self.change(reply), kept


class Custody:
    """Keeps in memory what a site keeps on its disk."""

    shows_figures = False

    def __init__(self) -> None:
        self.spent: list[str] = []
        self.figures: dict[int, list[str]] = {}
        self.explained: list[str] = []
        self.refuses: TaskRefused | None = None
        self.folder: Path | None = None

    def masking(self, plan: StudyPlan) -> Masking:
        raise AssertionError(plan)

    def states(self, plan: StudyPlan) -> StateFolder:
        if self.folder is None:
            raise AssertionError(plan)
        return StateFolder(self.folder)

    def spend(self, plan: StudyPlan, task: TrainTask | EvaluateTask, *, name: str, parameters: int) -> None:
        self.spent.append(f"{task.kind} {name}")
        if self.refuses is not None:
            raise self.refuses

    def keep_figures(self, plan: StudyPlan, round_number: int, counts: Mapping[str, Counts]) -> None:
        self.figures[round_number] = sorted(counts)

    def keep_explanations(self, plan: StudyPlan, task: str) -> None:
        self.explained.append(f"{plan.name} {task}")


class Site:
    """A site that approves what is in ``approved``."""

    def __init__(self, plan: StudyPlan) -> None:
        self.plan = plan
        self.approved = {plan.digest()}
        self.asked = 0
        self.work = InProcess()
        self.sources: dict[str, SourcePlan] = {plan.name: SourcePlan(adapter="digits")}
        self.custody = Custody()
        self._session = SiteSession(
            name=SITE, approve=self._approve, work=self.work, source=self.sources.get, custody=self.custody
        )

    def _approve(self, digest: str) -> None:
        self.asked += 1
        if digest not in self.approved:
            raise NotApproved("No.")

    def handle(self, message: Message, plan: StudyPlan | None = None) -> Message:
        return decode(self.raw(encode(message), plan), kind=ClassificationKind(classes=10))

    def raw(self, envelope: Envelope, plan: StudyPlan | None = None) -> Envelope:
        return self._session.handle(envelope, plan or self.plan, task="run:1", seconds=60.0)

    def initial(self) -> np.ndarray:
        vector = self.handle(Message(header=InitialTask(plan_digest=self.plan.digest()))).vector
        assert vector is not None
        return vector

    def train(self, vector: np.ndarray | None = None, **changes: Any) -> Message:
        header: dict[str, Any] = {"plan_digest": self.plan.digest(), "round": 1, "attempt": 1} | changes
        return self.handle(Message(header=TrainTask(**header), vector=self.initial() if vector is None else vector))


@pytest.fixture
def plan(make_plan: Callable[..., StudyPlan]) -> StudyPlan:
    return make_plan(federation={"sites": ["site-a", SITE]})


@pytest.fixture
def site(plan: StudyPlan) -> Site:
    return Site(plan)


def code(reply: Message) -> str:
    assert isinstance(reply.header, Refusal), reply.header
    assert reply.header.site == SITE
    return reply.header.code


def test_an_approved_study_is_opened_trained_and_released(site: Site) -> None:
    opened = site.handle(Message(header=OpenTask(plan=site.plan.approved().model_dump_json())))
    assert isinstance(opened.header, Opened)
    assert opened.header.site == SITE
    update = site.train()
    assert isinstance(update.header, Update)
    assert site.work.calls == [f"open {SITE} 1", "open", "initial-task", "train"]


def test_nothing_runs_for_a_plan_that_is_not_approved(site: Site) -> None:
    vector = np.zeros(650, np.float32)
    site.approved.clear()
    assert code(site.train(vector)) == "not-approved"
    assert site.work.calls == []


def test_an_approval_that_is_taken_back_ends_the_study_at_once(site: Site) -> None:
    vector = site.initial()
    assert isinstance(site.train(vector).header, Update)
    site.approved.clear()
    assert code(site.train(vector, round=2)) == "not-approved"
    assert site.work.calls.count("train") == 1


def test_an_approval_that_is_taken_back_in_mid_training_keeps_the_update_in(site: Site) -> None:
    vector = site.initial()

    def change(reply: Message) -> Message:
        site.approved.clear()
        return reply

    site.work.change = change
    assert code(site.train(vector)) == "not-approved"


def test_every_task_asks_anew(site: Site) -> None:
    site.initial()
    before = site.asked
    site.initial()
    assert site.asked > before


def test_a_task_that_names_another_plan_is_refused(site: Site, make_plan: Callable[..., StudyPlan]) -> None:
    other = make_plan(seed=8, federation={"sites": ["site-a", SITE]})
    assert code(site.train(np.zeros(650, np.float32), plan_digest=other.digest())) == "task-refused"
    assert code(site.handle(Message(header=OpenTask(plan=other.model_dump_json())))) == "task-refused"
    assert site.work.calls == []


def test_a_simulation_in_the_servers_plan_is_not_looked_at(site: Site, plan: StudyPlan) -> None:
    assert plan.simulation is not None
    reply = site.handle(Message(header=OpenTask(plan=plan.model_dump_json())))
    assert isinstance(reply.header, Opened)
    assert sum(reply.header.class_counts) == 1797  # its own file, not a quarter of it


@pytest.mark.parametrize("number", [0, 4, 1000])
def test_a_round_that_the_plan_does_not_have_never_reaches_the_worker(site: Site, number: int) -> None:
    assert code(site.train(np.zeros(650, np.float32), round=number)) == "task-refused"
    assert site.work.calls == []


def test_neither_site_nor_server_chooses_where_training_starts(site: Site) -> None:
    vector = site.initial() + np.float32(0.01)
    assert code(site.train(vector)) == "task-refused"
    assert isinstance(site.train(vector, round=2).header, Update)


@pytest.mark.parametrize("subject", ["local", "pooled"])
def test_baselines_are_for_simulations(site: Site, subject: Any) -> None:
    task = BaselineTask(plan_digest=site.plan.digest(), subject=subject)
    assert code(site.handle(Message(header=task, vector=np.zeros(650, np.float32)))) == "task-refused"
    assert site.work.calls == []


@pytest.mark.parametrize("subject", ["coordinator", "left_out"])
def test_a_site_tests_on_nobodys_data_but_its_own_test_split(site: Site, subject: Any) -> None:
    """What only a simulation has passes the release as it is: at a real site it must not come about."""
    task = EvaluateTask(plan_digest=site.plan.digest(), subject=subject)
    assert code(site.handle(Message(header=task, vector=np.zeros(650, np.float32)))) == "task-refused"


def test_what_only_a_simulation_evaluates_never_reaches_the_worker(site: Site) -> None:
    vector = site.initial()
    header = EvaluateTask(plan_digest=site.plan.digest(), subject="coordinator")
    assert code(site.handle(Message(header=header, vector=vector))) == "task-refused"
    assert site.work.calls[-1] == "initial-task"
    assert site.custody.spent == []


def test_a_site_that_the_plan_does_not_name_refuses(make_plan: Callable[..., StudyPlan]) -> None:
    site = Site(make_plan(federation={"sites": ["site-a", "site-c"]}))
    assert code(site.train(np.zeros(650, np.float32))) == "task-refused"


def test_a_study_without_data_is_refused_and_works_once_there_is_some(site: Site) -> None:
    source = site.sources.pop(site.plan.name)
    assert code(site.train(np.zeros(650, np.float32))) == "task-refused"
    site.sources[site.plan.name] = source
    assert isinstance(site.train().header, Update)


def test_garbage_is_refused(site: Site) -> None:
    assert code(decode(site.raw(Envelope(header=b"garbage")))) == "message"


@pytest.mark.parametrize(
    "failure",
    [
        ContractViolation(f"Row 7 holds {CANARY}.", advice=f"Look at {CANARY}."),
        DataError(CANARY),
        TrainingError(CANARY),
        WorkerLost(CANARY),
        HansaError(CANARY),
        ZeroDivisionError(CANARY),
        KeyError(CANARY),
    ],
    ids=lambda failure: type(failure).__name__,
)
def test_no_failure_tells_a_value_of_the_data(site: Site, failure: Exception) -> None:
    vector = site.initial()
    site.work.failure = failure
    reply = site.train(vector)
    assert code(reply) == getattr(failure, "code", "internal")
    assert CANARY not in encode(reply).header.decode()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_update_that_is_not_finite_does_not_leave(site: Site, value: float) -> None:
    vector = site.initial()

    def poison(reply: Message) -> Message:
        assert reply.vector is not None
        reply.vector[3] = value
        return reply

    site.work.change = poison
    assert code(site.train(vector)) == "release"


def other_round(reply: Message) -> Message:
    return replace(reply, header=reply.header.model_copy(update={"round": 2}))


def other_site(reply: Message) -> Message:
    return replace(reply, header=reply.header.model_copy(update={"site": "site-a"}))


def longer(reply: Message) -> Message:
    return replace(reply, vector=np.zeros(651, np.float32))


def other_kind(reply: Message) -> Message:
    """Carry out a vector by a message that the release step does not see."""
    assert isinstance(reply.header, Update)
    spec = ParameterSpec(tensors=(Tensor(name="w", shape=(650,)),))
    return Message(header=Initial(plan_digest=reply.header.plan_digest, spec=spec), vector=reply.vector)


def refusal_with_text(_reply: Message) -> Message:
    return Message(header=Refusal(code="x", site=SITE, reason=CANARY))


@pytest.mark.parametrize("change", [other_round, other_site, longer, other_kind, refusal_with_text])
def test_a_worker_that_answers_something_else_lets_nothing_out(
    site: Site, change: Callable[[Message], Message]
) -> None:
    vector = site.initial()
    site.work.change = change
    reply = site.train(vector)
    assert code(reply) == "release"
    assert CANARY not in encode(reply).header.decode()


def test_initial_parameters_that_are_not_finite_do_not_leave(site: Site) -> None:
    site.initial()

    def poison(reply: Message) -> Message:
        assert reply.vector is not None
        return replace(reply, vector=np.full_like(reply.vector, np.nan))

    site.work.change = poison
    assert code(site.handle(Message(header=InitialTask(plan_digest=site.plan.digest())))) == "release"


def test_what_it_costs_is_entered_before_the_work_and_what_exceeds_it_never_reaches_the_worker(site: Site) -> None:
    parameters = site.initial()
    site.custody.refuses = TaskRefused("The budget is spent.")
    site.work.calls.clear()
    assert code(site.train(parameters)) == "task-refused"
    assert site.custody.spent == ["train run:1"]
    assert site.work.calls == []


def test_its_own_figures_stay_with_it(site: Site) -> None:
    site.train()
    digest = site.plan.digest()
    site.handle(Message(header=EvaluateTask(plan_digest=digest), vector=site.initial()))
    assert site.custody.figures == {0: ["validation"], 3: ["test", "validation"]}


def test_nothing_of_a_masked_plan_is_done_for_a_task_that_announces_no_round(
    make_plan: Callable[..., StudyPlan],
) -> None:
    masks = {"maximum_examples": 2_000, "secure_aggregation": {"coordinate_range": 1.0, "cohort": "fixed"}}
    site = Site(make_plan(federation={"sites": ["site-a", SITE, "site-c"]}, privacy=masks))
    parameters = np.zeros(650, np.float32)
    assert code(site.train(parameters)) == "task-refused"
    header = EvaluateTask(plan_digest=site.plan.digest())
    assert code(site.handle(Message(header=header, vector=parameters))) == "task-refused"
    assert site.work.calls == []


def test_each_kind_of_masked_task_has_rounds_of_its_own(make_plan: Callable[..., StudyPlan]) -> None:
    plan = make_plan(
        federation={"sites": ["site-a", SITE, "site-c"]},
        privacy={"maximum_examples": 2_000, "secure_aggregation": {"coordinate_range": 1.0, "cohort": "fixed"}},
        evaluation={"explain": {"method": "integrated_gradients"}},
    )
    site, count = Site(plan), plan.rounds.count
    vector = np.zeros(650, np.float32)

    site.work.failure = WorkerLost("It got that far.")

    for kind, own in ((EvaluateTask, (1, 3)), (ExplainTask, (2, 4))):
        for after in range(-count, 5):
            header = kind(plan_digest=plan.digest(), round=count + after)
            reply = site.handle(Message(header=header, vector=vector, statement=b"announced"))
            assert (code(reply) == "task-refused") != (after in own), (header.kind, after)


def test_an_explanation_leaves_as_sums_and_what_shows_examples_is_kept(make_plan: Callable[..., StudyPlan]) -> None:
    plan = make_plan(
        federation={"sites": ["site-a", SITE]},
        evaluation={"explain": {"method": "integrated_gradients", "examples": 200}},
    )
    site = Site(plan)
    task = ExplainTask(plan_digest=plan.digest())
    reply = site.handle(Message(header=task, vector=site.initial()))
    assert isinstance(reply.header, Explained)
    assert reply.sums is not None
    assert reply.sums[:10].sum() > 100
    assert site.custody.explained == ["small run:1"]
    elsewhere = task.model_copy(update={"folder": "/tmp"})
    assert code(site.handle(Message(header=elsewhere, vector=site.initial()))) == "task-refused"


def test_an_explanation_that_the_plan_does_not_ask_for_is_refused(site: Site) -> None:
    task = ExplainTask(plan_digest=site.plan.digest())
    assert code(site.handle(Message(header=task, vector=site.initial()))) == "task-refused"
    assert "explain" not in site.work.calls


# --- what a site keeps from round to round ---


@pytest.fixture
def keeping(make_plan: Callable[..., StudyPlan], tmp_path: Path) -> Site:
    plan = make_plan(federation={"sites": ["site-a", SITE]}, personalisation={"method": "ditto"})
    site = Site(plan)
    site.custody.folder = tmp_path / "state"
    return site


def test_a_task_gets_what_was_kept_of_the_round_that_it_names(keeping: Site) -> None:
    start, folder = keeping.initial(), keeping.custody.folder
    assert folder is not None
    assert isinstance(keeping.train(start).header, Update)
    assert isinstance(keeping.train(start, round=2, basis=1).header, Update)
    assert isinstance(keeping.train(start, round=3, basis=1).header, Update)  # the update of round 2 was not counted
    assert [call for call in keeping.work.calls if call.startswith("train")] == [
        "train on nothing",
        "train on personal",
        "train on personal",
    ]
    assert sorted(path.name for path in folder.iterdir()) == ["round-000001.safetensors", "round-000003.safetensors"]
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
    assert folder.stat().st_mode & 0o777 == 0o700


def test_a_lost_update_is_not_built_on(keeping: Site) -> None:
    """Round 3 on the state of round 1 is the same, whether a round 2 was trained and lost or never was."""
    start, folder = keeping.initial(), keeping.custody.folder
    assert folder is not None
    keeping.train(start)
    without = keeping.train(start, round=3, basis=1).vector
    kept = (folder / "round-000003.safetensors").read_bytes()
    keeping.train(start, round=2, basis=1)
    again = keeping.train(start, round=3, basis=1).vector
    assert without is not None
    assert again is not None
    assert again.tobytes() == without.tobytes()
    assert (folder / "round-000003.safetensors").read_bytes() == kept


@pytest.mark.parametrize(("number", "basis"), [(1, 1), (2, 2), (2, 3), (3, 2)])
def test_a_round_that_cannot_have_been_or_is_not_here_is_refused_before_the_work(
    keeping: Site, number: int, basis: int
) -> None:
    start = keeping.initial()
    keeping.train(start)
    assert code(keeping.train(start, round=number, basis=basis)) == "task-refused"
    assert [call for call in keeping.work.calls if call.startswith("train")] == ["train on nothing"]


def test_what_cannot_be_kept_keeps_the_update_in(keeping: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    start = keeping.initial()

    def full(*_arguments: object, **_options: object) -> None:
        raise StorageError("The disk is full.")

    monkeypatch.setattr("hansa_client.site_state.write_whole", full)
    assert code(keeping.train(start)) == "storage"


def test_the_own_model_of_the_closing_exchange_stays_here(keeping: Site) -> None:
    start = keeping.initial()
    keeping.train(start)
    header = EvaluateTask(plan_digest=keeping.plan.digest(), basis=1)
    reply = keeping.handle(Message(header=header, vector=start))
    assert set(reply.counts) == {"validation", "test", "personal"}
    assert reply.vector is None
    assert keeping.custody.folder is not None
    own, kept = (load_file(keeping.custody.folder / name) for name in (PERSONAL, "round-000001.safetensors"))
    assert sum(values.size for values in own.values()) == start.size
    values = np.concatenate([own[name].ravel() for name in sorted(own, reverse=True)])  # weights lie before biases
    np.testing.assert_array_equal(values, kept["personal"])


def test_what_a_codec_held_back_is_kept_here_and_not_shown_to_the_worker(
    make_plan: Callable[..., StudyPlan], tmp_path: Path
) -> None:
    plan = make_plan(federation={"sites": ["site-a", SITE]}, transport={"codec": "topk", "fraction": 0.1})
    site = Site(plan)
    site.custody.folder = tmp_path / "state"
    start = site.initial()
    sent = [site.train(start), site.train(start, round=2, basis=1)]
    assert all(isinstance(reply.header, Update) and reply.vector is None for reply in sent)
    assert sent[0].packed != sent[1].packed
    assert [call for call in site.work.calls if call.startswith("train")] == ["train on nothing"] * 2
    kept = load_file(site.custody.folder / "round-000002.safetensors")
    assert {name: values.shape for name, values in kept.items()} == {"memory": (650,)}
    (site.custody.folder / "round-000002.safetensors").unlink()
    assert code(site.train(start, round=3, basis=2)) == "task-refused"
    evaluated = site.handle(Message(header=EvaluateTask(plan_digest=plan.digest(), basis=2), vector=start))
    assert set(evaluated.counts) == {"validation", "test"}  # a model is evaluated without what was held back of it


def test_a_study_without_state_asks_for_no_folder(site: Site) -> None:
    assert site.custody.folder is None
    assert isinstance(site.train(basis=0).header, Update)


def test_an_ensemble_is_counted_beside_the_last_model(make_plan: Callable[..., StudyPlan]) -> None:
    """Of one version twice it is that version; of two it is neither; other numbers of versions are refused."""
    site = Site(make_plan(federation={"sites": ["site-a", SITE]}, evaluation={"ensemble": 2}))
    first = site.initial()
    update = site.train(first)
    assert update.vector is not None
    second, task = first + update.vector, EvaluateTask(plan_digest=site.plan.digest())

    def counted(*versions: np.ndarray) -> Message:
        return site.handle(Message(header=task, vector=np.concatenate(versions)))

    same, both = counted(second, second).counts, counted(second, first).counts
    assert set(same) == {"validation", "test", "ensemble"}
    assert same["ensemble"].mean_loss == pytest.approx(same["test"].mean_loss, abs=1e-5)
    assert both["test"].mean_loss == same["test"].mean_loss
    assert both["ensemble"].mean_loss not in (same["test"].mean_loss, counted(first, first).counts["test"].mean_loss)
    assert site.custody.figures[3] == ["ensemble", "test", "validation"]
    for versions in ([second], [second, first, first]):
        assert code(counted(*versions)) == "message"
