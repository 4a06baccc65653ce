from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hansa_client.data.split import Splits
from hansa_client.session import SiteState, handle
from hansa_client.simulated import divide
from hansa_client.training.supervised import SupervisedTraining
from hansa_client.work import Work
from hansa_common.messages import (
    Baseline,
    BaselineTask,
    Envelope,
    Evaluated,
    EvaluateTask,
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
from hansa_common.metrics import ClassificationKind, of_classes
from hansa_common.plan import StudyPlan


def ask(state: SiteState, message: Message) -> Message:
    return decode(handle(encode(message), state), kind=ClassificationKind(classes=10))


def opened(plan: StudyPlan, index: int = 0) -> SiteState:
    state = SiteState(index=index)
    reply = ask(state, Message(header=OpenTask(plan=plan.model_dump_json())))
    assert isinstance(reply.header, Opened), reply.header
    return state


def train_task(plan: StudyPlan, size: int = 650, **changes: Any) -> Message:
    header: dict[str, Any] = {"plan_digest": plan.digest(), "round": 1, "attempt": 1} | changes
    return Message(header=TrainTask(**header), vector=np.zeros(size, np.float32))


def refusal(reply: Message) -> Refusal:
    assert isinstance(reply.header, Refusal), reply.header
    return reply.header


def test_a_site_says_what_it_brings(small_plan: StudyPlan) -> None:
    state = SiteState(index=1)
    reply = ask(state, Message(header=OpenTask(plan=small_plan.model_dump_json())))
    assert isinstance(reply.header, Opened)
    assert reply.header.site == "site-2"
    assert reply.header.plan_digest == small_plan.digest()
    assert reply.header.train + reply.header.validation + reply.header.test == sum(reply.header.class_counts)


def test_a_round_is_evaluated_trained_and_released(small_plan: StudyPlan) -> None:
    reply = ask(opened(small_plan), train_task(small_plan))
    assert isinstance(reply.header, Update)
    assert reply.vector is not None
    assert np.abs(reply.vector).max() > 0
    assert reply.counts["validation"].num_examples > 0
    assert reply.header.train_seconds <= reply.header.seconds


def test_the_same_task_gives_the_same_bytes_in_a_new_process_state(small_plan: StudyPlan) -> None:
    def update(state: SiteState) -> bytes:
        return bytes(handle(encode(train_task(small_plan)), state).arrays["vector"].data)

    first = opened(small_plan)
    assert update(first) == update(SiteState(index=0, plan_json=first.plan_json))
    assert update(first) != handle(encode(train_task(small_plan, round=2)), first).arrays["vector"].data


def test_nothing_is_done_before_the_study_is_open(small_plan: StudyPlan) -> None:
    assert refusal(ask(SiteState(index=0), train_task(small_plan))).code == "task-refused"


def test_a_task_of_another_plan_is_refused(small_plan: StudyPlan, make_plan: Callable[..., StudyPlan]) -> None:
    other = make_plan(seed=8)
    reply = refusal(ask(opened(small_plan), train_task(other)))
    assert reply.code == "task-refused"
    assert reply.site == "site-1"


@pytest.mark.parametrize("number", [0, 4, 1000])
def test_a_round_that_the_plan_does_not_have_is_refused(small_plan: StudyPlan, number: int) -> None:
    assert refusal(ask(opened(small_plan), train_task(small_plan, round=number))).code == "task-refused"


@pytest.mark.parametrize("size", [0, 649, 651])
def test_parameters_of_another_size_are_refused(small_plan: StudyPlan, size: int) -> None:
    assert refusal(ask(opened(small_plan), train_task(small_plan, size))).code == "message"


def test_a_message_that_is_no_task_is_refused(small_plan: StudyPlan) -> None:
    reply = Message(header=Refusal(code="x", site="x", reason="x"))
    assert refusal(ask(opened(small_plan), reply)).code == "task-refused"


def test_garbage_is_refused_and_the_site_lives(small_plan: StudyPlan) -> None:
    state = opened(small_plan)
    assert refusal(decode(handle(Envelope(header=b"garbage"), state))).code == "message"
    assert isinstance(ask(state, train_task(small_plan)).header, Update)


def test_a_plan_that_is_none_is_refused() -> None:
    assert refusal(ask(SiteState(index=0), Message(header=OpenTask(plan='{"name": 3}')))).code == "plan"


def test_a_site_that_is_not_there_is_refused(small_plan: StudyPlan) -> None:
    task = Message(header=OpenTask(plan=small_plan.model_dump_json()))
    assert refusal(ask(SiteState(index=4), task)).code == "task-refused"


def test_an_unexpected_failure_tells_no_details(small_plan: StudyPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    state = opened(small_plan)

    def fail(*_arguments: Any, **_options: Any) -> None:
        raise ZeroDivisionError("patient 4711")

    monkeypatch.setattr(SupervisedTraining, "train", fail)
    reply = refusal(ask(state, train_task(small_plan)))
    assert reply.code == "internal"
    assert "4711" not in reply.reason
    assert "ZeroDivisionError" in reply.reason


def test_a_trained_nan_does_not_leave(small_plan: StudyPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    state = opened(small_plan)
    honest = SupervisedTraining.train

    def poisoned(*arguments: Any, **options: Any) -> Any:
        trained = honest(*arguments, **options)
        trained.delta[3] = np.nan
        return trained

    monkeypatch.setattr(SupervisedTraining, "train", poisoned)
    assert refusal(ask(state, train_task(small_plan))).code == "release"


def test_initial_parameters_are_the_seeds(make_plan: Callable[..., StudyPlan]) -> None:
    images = {"kind": "image", "channels": 1, "height": 28, "width": 28, "classes": list("0123456789")}
    vectors = []
    for seed in (7, 7, 8):
        plan = make_plan(
            seed=seed,
            model={"name": "cnn", "filters": [2, 2, 2], "dense": 4},
            replaced={"data": images},
            simulation={"data": {"adapter": "mnist5k"}},
        )
        reply = ask(opened(plan), Message(header=InitialTask(plan_digest=plan.digest())))
        assert isinstance(reply.header, Initial)
        assert reply.vector is not None
        assert reply.header.spec.size == reply.vector.size
        vectors.append(reply.vector.tobytes())
    assert vectors[0] == vectors[1] != vectors[2]


def test_the_closing_exchange_counts_both_splits(small_plan: StudyPlan) -> None:
    task = EvaluateTask(plan_digest=small_plan.digest())
    reply = ask(opened(small_plan), Message(header=task, vector=np.zeros(650, np.float32)))
    assert isinstance(reply.header, Evaluated)
    assert set(reply.counts) == {"validation", "test"}
    assert reply.counts["test"].has_histograms


def test_the_coordinators_test_set_is_nobody_elses(make_plan: Callable[..., StudyPlan]) -> None:
    plan = make_plan(simulation={"holdout": 0.2})
    task = EvaluateTask(plan_digest=plan.digest(), subject="coordinator")
    reply = ask(opened(plan), Message(header=task, vector=np.zeros(650, np.float32)))
    assert reply.counts["test"].num_examples == round(0.2 * 1797)


def test_baselines_cover_the_sites_own_test_splits(small_plan: StudyPlan) -> None:
    state = opened(small_plan, 2)
    vector = np.zeros(650, np.float32)
    local, pooled = (
        ask(state, Message(header=BaselineTask(plan_digest=small_plan.digest(), subject=subject), vector=vector))
        for subject in ("local", "pooled")
    )
    assert isinstance(local.header, Baseline)
    assert set(local.counts) == {"site-3"}
    assert set(pooled.counts) == {"site-1", "site-2", "site-3", "site-4"}
    assert pooled.counts["site-3"].num_examples == local.counts["site-3"].num_examples
    accuracy = [np.trace(of_classes(counts).confusion) / counts.num_examples for counts in pooled.counts.values()]
    assert min(accuracy) > 0.6


def test_a_site_that_was_left_out_tests_on_all_its_data(make_plan: Callable[..., StudyPlan]) -> None:
    plan = make_plan(simulation={"leave_out": "site-3"})
    state = opened(plan, 2)
    mine = ask(state, Message(header=OpenTask(plan=plan.model_dump_json()))).header
    assert isinstance(mine, Opened)
    task = EvaluateTask(plan_digest=plan.digest(), subject="left_out")
    counts = of_classes(ask(state, Message(header=task, vector=np.zeros(650, np.float32))).counts["test"])
    assert counts.num_examples == mine.train + mine.validation + mine.test
    assert tuple(counts.confusion.sum(axis=1)) == mine.class_counts
    assert counts.has_histograms


def test_the_pooled_baseline_does_not_train_at_a_site_that_was_left_out(
    make_plan: Callable[..., StudyPlan], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan(simulation={"leave_out": "site-3"})
    used: list[int] = []
    original = Work._prepare

    def prepare(work: Work, splits: Splits, *rest: Any) -> SupervisedTraining:
        used.extend(splits.train.tolist())
        return original(work, splits, *rest)

    state = opened(plan)
    monkeypatch.setattr(Work, "_prepare", prepare)
    task = BaselineTask(plan_digest=plan.digest(), subject="pooled")
    counts = ask(state, Message(header=task, vector=np.zeros(650, np.float32))).counts
    assert set(counts) == {"site-1", "site-2", "site-4"}
    assert used
    assert not set(used) & set(divide(plan).indices[2].tolist())


def two_tables(folder: Path, make_plan: Callable[..., StudyPlan]) -> StudyPlan:
    """Return a study of two sites, each of which standardises by its own training split."""
    rng = np.random.default_rng(5)
    values = rng.normal(size=(90, 2))
    sick = values[:, 0] + 0.8 * rng.normal(size=90) > 0
    rows = [f"{40 + 9 * a:.3f},{b:.3f},{'yes' if y else 'no'}" for (a, b), y in zip(values, sick, strict=True)]
    (folder / "patients.csv").write_text("\n".join(["age,dose,outcome", *rows]) + "\n")
    columns = [{"name": "age"}, {"name": "dose"}]
    data = {"kind": "table", "label": "outcome", "classes": ["no", "yes"], "columns": columns, "standardise": "site"}
    source = {"adapter": "csv", "path": str(folder / "patients.csv")}
    return make_plan(replaced={"data": data}, simulation={"partition": "dirichlet:1.0", "sites": 2, "data": source})


def tables(state: SiteState, message: Message) -> Message:
    return decode(handle(encode(message), state), kind=ClassificationKind(classes=2))


def test_a_sites_own_model_is_tested_at_every_site(tmp_path: Path, make_plan: Callable[..., StudyPlan]) -> None:
    """The oracle: the site's rounds one after another, without anybody else, and another site's closing exchange."""
    plan = two_tables(tmp_path, make_plan)
    digest, state = plan.digest(), opened(plan, 1)
    start = tables(state, Message(header=InitialTask(plan_digest=digest))).vector
    assert start is not None
    current = start
    for number in (1, 2, 3):
        task = TrainTask(plan_digest=digest, round=number, attempt=1)
        delta = tables(state, Message(header=task, vector=current)).vector
        assert delta is not None
        current = current + delta
    header = BaselineTask(plan_digest=digest, subject="local", everywhere=True)
    found = tables(state, Message(header=header, vector=start)).counts
    assert set(found) == {"site-1", "site-2"}
    for index in range(2):
        reply = tables(opened(plan, index), Message(header=EvaluateTask(plan_digest=digest), vector=current))
        np.testing.assert_array_equal(
            of_classes(found[f"site-{index + 1}"]).confusion, of_classes(reply.counts["test"]).confusion
        )


def test_a_contract_that_the_data_breaks_is_told_to_the_data_steward(
    tmp_path: Path, make_plan: Callable[..., StudyPlan]
) -> None:
    rows = ["age,dose,outcome", *(f"{20 + n},{n % 5},{'yes' if n % 2 else 'no'}" for n in range(40))]
    rows[7] = "999,1,yes"
    (tmp_path / "patients.csv").write_text("\n".join(rows) + "\n")
    plan = make_plan(
        replaced={
            "data": {
                "kind": "table",
                "label": "outcome",
                "classes": ["no", "yes"],
                "columns": [{"name": "age", "minimum": 0.0, "maximum": 120.0}, {"name": "dose"}],
            }
        },
        simulation={"partition": "iid", "sites": 2, "data": {"adapter": "csv", "path": str(tmp_path / "patients.csv")}},
    )
    reply = refusal(ask(SiteState(index=0), Message(header=OpenTask(plan=plan.model_dump_json()))))
    assert reply.code == "contract"
    for fragment in ("age", "999", "120"):
        assert fragment in reply.reason
