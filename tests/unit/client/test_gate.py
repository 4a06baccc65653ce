"""What counts as a look at the site's data, and how often the policy allows one."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest
from tests.unit.client.site_cast import join

from hansa_client.gate import Gate
from hansa_client.session import _ANSWERS  # what a real site does
from hansa_common.errors import TaskRefused
from hansa_common.messages import (
    EvaluateTask,
    ExplainTask,
    InitialTask,
    OpenTask,
    Reply,
    StatisticsTask,
    Task,
    TrainTask,
)
from hansa_common.plan import StudyPlan

DIGEST: Final = "a" * 64
TELL: Final = (
    StatisticsTask(plan_digest=DIGEST),
    TrainTask(plan_digest=DIGEST, round=1, attempt=1),
    EvaluateTask(plan_digest=DIGEST),
    ExplainTask(plan_digest=DIGEST),
)
TELL_NOTHING: Final = (OpenTask(plan="{}"), InitialTask(plan_digest=DIGEST))


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    folder = join(tmp_path / "site").folder
    settings = folder.settings()
    policy = settings.policy.model_copy(update={"most_attempts": 2})
    return Gate(folder, settings.model_copy(update={"policy": policy}))


def test_what_a_site_does_is_a_look_or_has_its_examples_answer_nothing() -> None:
    assert {type(header) for header in (*TELL, *TELL_NOTHING)} == set(_ANSWERS)


@pytest.mark.parametrize("header", TELL, ids=lambda header: header.kind)
def test_each_kind_that_examples_answer_has_its_limit(
    gate: Gate, make_plan: Callable[..., StudyPlan], header: Task | Reply
) -> None:
    plan, answered = make_plan(), Counter[str]()
    for _ in range(2):
        look = gate.look(plan, header, answered.__getitem__)
        assert look.startswith(plan.digest())
        answered[look] += 1
    with pytest.raises(TaskRefused, match="2 times, the most that its policy allows"):
        gate.look(plan, header, answered.__getitem__)
    assert gate.look(make_plan(seed=99), header, answered.__getitem__)  # another plan, another approval


def test_each_round_is_a_step_and_all_evaluations_together_are_one(
    gate: Gate, make_plan: Callable[..., StudyPlan]
) -> None:
    plan, none = make_plan(), Counter[str]()
    trained = {gate.look(plan, TELL[1].model_copy(update={"round": n}), none.__getitem__) for n in (1, 2)}
    tested = {gate.look(plan, TELL[2].model_copy(update={"round": n}), none.__getitem__) for n in (1, 2)}
    assert (len(trained), len(tested)) == (2, 1)


@pytest.mark.parametrize("header", TELL_NOTHING, ids=lambda header: header.kind)
def test_what_they_do_not_answer_is_never_counted(
    gate: Gate, make_plan: Callable[..., StudyPlan], header: Task | Reply
) -> None:
    assert not gate.look(make_plan(), header, lambda _look: 1_000)
