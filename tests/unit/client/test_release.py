from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hansa_client.release import Release
from hansa_common.errors import ReleaseRefused
from hansa_common.messages import (
    Evaluated,
    EvaluateTask,
    Message,
    Opened,
    OpenTask,
    Statistics,
    StatisticsTask,
    TrainTask,
    Update,
    decode,
)
from hansa_common.metrics import ClassificationCounts, ClassificationKind
from hansa_common.parameters import CHUNK, Vector, l2_norm
from hansa_common.plan import StudyPlan

DIGEST = "ab" * 32
COUNTS = ClassificationCounts.of(np.full((2, 2), 0.5, np.float32), np.array([0, 1]), np.ones(2), histograms=False)
TRAIN = Message(header=TrainTask(plan_digest=DIGEST, round=1, attempt=1), vector=np.zeros(3, np.float32))
Make = Callable[..., StudyPlan]

NOISE: dict[str, Any] = {"clipping_bound": 1.0, "noise_multiplier": 1.0, "epsilon": 9.0, "delta": 1e-5}
PERSONS: dict[str, Any] = {
    "weights": "equal",
    "differential": NOISE | {"kind": "example", "sampling_rate": 0.1},
}
SITES: dict[str, Any] = {"weights": "equal", "differential": NOISE | {"kind": "site_server"}}
STEPS = {"training": {"steps": 5, "batch_size": 8, "optimizer": "sgd"}}


def update(delta: Vector, counts: ClassificationCounts = COUNTS) -> Message:
    header = Update(
        plan_digest=DIGEST,
        round=1,
        attempt=1,
        site="a",
        num_examples=2,
        train_loss=0.5,
        steps=1,
        seconds=1.0,
        train_seconds=1.0,
    )
    return Message(header=header, vector=delta, counts={"validation": counts})


def release(plan: StudyPlan, *, parameters: int = 3, max_bytes: int = 10_000) -> Release:
    return Release(plan=plan, parameters=parameters, max_bytes=max_bytes)


def released(plan: StudyPlan, delta: Vector) -> Message:
    return decode(release(plan, parameters=delta.size).reply(TRAIN, update(delta)), kind=ClassificationKind(classes=2))


def test_a_good_update_leaves_as_it_is(small_plan: StudyPlan) -> None:
    message = released(small_plan, np.array([1, 2, 3], np.float32))
    assert message.vector is not None
    assert message.vector.tolist() == [1, 2, 3]
    assert message.header == update(np.zeros(3, np.float32)).header
    assert message.counts == {"validation": COUNTS}


@pytest.mark.parametrize(
    "delta",
    [
        np.array([1, np.nan, 3], np.float32),
        np.array([1, np.inf, 3], np.float32),
        np.array([1, -np.inf, 3], np.float32),
        np.array([1, 2], np.float32),
        np.array([[1, 2, 3]], np.float32),
        np.array([1, 2, 3], np.float64),
        np.array([1, 2, 3], np.int64),
    ],
    ids=["NaN", "inf", "-inf", "short", "matrix", "float64", "int64"],
)
def test_nothing_else_leaves(small_plan: StudyPlan, delta: Vector) -> None:
    with pytest.raises(ReleaseRefused):
        release(small_plan).reply(TRAIN, update(delta))


@pytest.mark.parametrize("position", [0, CHUNK - 1, CHUNK, 2 * CHUNK + 4])
def test_one_nan_anywhere_in_a_large_update_is_found(small_plan: StudyPlan, position: int) -> None:
    delta = np.zeros(2 * CHUNK + 5, np.float32)
    delta[position] = np.nan
    with pytest.raises(ReleaseRefused, match="NaN"):
        release(small_plan, parameters=delta.size, max_bytes=1 << 30).reply(TRAIN, update(delta))


def test_a_reply_beyond_the_limit_does_not_leave(small_plan: StudyPlan) -> None:
    with pytest.raises(ReleaseRefused, match="at most 100"):
        release(small_plan, max_bytes=100).reply(TRAIN, update(np.zeros(3, np.float32)))


@pytest.mark.parametrize("privacy", [{"clipping_bound": 1.0}, SITES], ids=["bound", "noise at the server"])
def test_an_update_is_no_longer_than_the_plans_bound(make_plan: Make, privacy: dict[str, Any]) -> None:
    long = released(make_plan(privacy=privacy), np.array([3, 4, 0], np.float32)).vector
    assert long is not None
    assert l2_norm(long) <= 1.0
    assert long.tolist() == pytest.approx([0.6, 0.8, 0.0])
    short = released(make_plan(privacy=privacy), np.array([0.3, 0.4, 0], np.float32)).vector
    assert short is not None
    assert short.tolist() == pytest.approx([0.3, 0.4, 0.0])


@pytest.mark.parametrize("privacy", [PERSONS, SITES], ids=["persons", "sites"])
def test_with_differential_privacy_no_size_loss_time_or_count_leaves(make_plan: Make, privacy: dict[str, Any]) -> None:
    plan, told = make_plan(privacy=privacy, replaced=STEPS), update(np.array([0.1, 0, 0], np.float32))
    assert isinstance(told.header, Update)
    told = replace(told, header=told.header.model_copy(update={"incoming_loss": 0.7}))
    message = decode(release(plan).reply(TRAIN, told), kind=ClassificationKind(classes=2))
    header = message.header
    assert isinstance(header, Update)
    assert header.incoming_loss is None
    assert (header.num_examples, header.train_loss, header.seconds, header.train_seconds) == (0, 0.0, 0.0, 0.0)
    assert message.counts == {}


def test_counts_that_the_work_has_noised_leave(make_plan: Make) -> None:
    privacy = PERSONS | {"differential": PERSONS["differential"] | {"metrics_noise": 30.0}}
    message = released(make_plan(privacy=privacy, replaced=STEPS), np.zeros(3, np.float32))
    assert message.counts == {"validation": COUNTS}


def _opened(plan: StudyPlan) -> Opened:
    header = Opened(
        plan_digest=DIGEST,
        site="a",
        train=70,
        validation=10,
        test=20,
        class_counts=(60, 40),
        origin="",
        version="1",
        device="cpu",
    )
    reply = release(plan).reply(Message(header=OpenTask(plan="{}")), Message(header=header))
    back = decode(reply).header
    assert isinstance(back, Opened)
    return back


def test_sizes_leave_without_protection_and_stay_at_home_with_noise(make_plan: Make) -> None:
    told = _opened(make_plan())
    assert (told.train, told.validation, told.test, told.class_counts) == (70, 10, 20, (60, 40))
    for privacy in (PERSONS, SITES):
        told = _opened(make_plan(privacy=privacy, replaced=STEPS))
        assert (told.train, told.validation, told.test, told.class_counts) == (0, 0, 0, ())


def test_counts_of_the_last_model_stay_at_home_with_noise(make_plan: Make) -> None:
    task = Message(header=EvaluateTask(plan_digest=DIGEST), vector=np.zeros(3, np.float32))
    header = Evaluated(plan_digest=DIGEST, site="a", seconds=3.0)
    counted = Message(header=header, counts={"validation": COUNTS, "test": COUNTS})
    told = decode(release(make_plan()).reply(task, counted), kind=ClassificationKind(classes=2))
    assert set(told.counts) == {"validation", "test"}
    kept = decode(release(make_plan(privacy=SITES)).reply(task, counted), kind=ClassificationKind(classes=2))
    assert kept.counts == {}
    assert isinstance(kept.header, Evaluated)
    assert kept.header.seconds == 0.0


def test_a_group_of_few_people_leaves_with_no_counts_of_its_own(make_plan: Make) -> None:
    plan = make_plan()
    groups = {"groups": {"sex": ("f", "m")}, "minimum_group": 20}
    plan = plan.model_copy(update={"evaluation": plan.evaluation.model_copy(update=groups)})
    members = np.arange(40)[:, None] < np.array([30, 10])
    test = ClassificationCounts.of(np.full((40, 2), 0.5, np.float32), np.arange(40) % 2, np.ones(40), members=members)
    task = Message(header=EvaluateTask(plan_digest=DIGEST), vector=np.zeros(3, np.float32))
    header = Evaluated(plan_digest=DIGEST, site="a", seconds=3.0)
    reply = release(plan, max_bytes=10**6).reply(
        task, Message(header=header, counts={"validation": test, "test": test})
    )
    kind = ClassificationKind(classes=2, rows=3)
    for counts in decode(reply, kind=kind).counts.values():
        assert isinstance(counts, ClassificationCounts)
        assert counts.decisions is not None
        assert counts.decisions.sum(axis=1).tolist() == [20, 20, 15, 15, 0, 0]


def statistics(words: int) -> tuple[Message, Message]:
    header = Statistics(plan_digest=DIGEST, site="a", seconds=1.0)
    return Message(header=StatisticsTask(plan_digest=DIGEST)), Message(header=header, sums=np.ones(words, np.uint64))


def test_statistics_leave_where_the_plan_asks_for_them(make_plan: Make) -> None:
    plan = make_plan(data={"shape": [2]}, preprocessing={"standardise": "federation"})
    message = decode(release(plan).reply(*statistics(2 * 33)))
    assert message.sums is not None
    assert message.sums.sum() == 2 * 33
    with pytest.raises(ReleaseRefused, match="not those that the plan asks for"):
        release(plan).reply(*statistics(2 * 33 + 1))


def test_statistics_stay_where_the_plan_does_not_ask_for_them(small_plan: StudyPlan) -> None:
    with pytest.raises(ReleaseRefused, match="lets no statistics of the features out"):
        release(small_plan).reply(*statistics(64 * 33))
