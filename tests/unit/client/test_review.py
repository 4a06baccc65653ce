from collections.abc import Callable
from typing import Any

import pytest

from hansa_client.review import describe
from hansa_common.app_plan import AppPlan
from hansa_common.plan import StudyPlan
from hansa_common.roster import CoordinatorPins, Organisation, Roster
from hansa_common.wire.protocol import Proposal


def roster(**changes: Any) -> Roster:
    values: dict[str, Any] = {
        "federation": "thorax",
        "version": 1,
        "founder": Organisation(name="Charité", key="ab" * 32),
        "coordinator": CoordinatorPins(certificate_authorities=("cd" * 32,)),
        "issued_at": 1,
    }
    return Roster(**(values | changes))


def page(plan: StudyPlan | AppPlan, **changes: Any) -> str:
    text = (plan.approved() if isinstance(plan, StudyPlan) else plan).model_dump_json()
    proposal = Proposal(study="small-1", plan=text, digest=plan.digest(), proposed_at=0)
    return describe(proposal, roster(**changes), answer="not answered")


def test_it_says_who_asks_what_leaves_who_gets_the_model_and_the_hash(make_plan: Callable[..., StudyPlan]) -> None:
    plan = make_plan(federation={"sites": ["Hospital A", "Hospital B"]})
    text = page(plan)
    for words in ("Charité", "thorax", "A test.", "trained here 3 times", "1 epochs", "Hospital A, Hospital B"):
        assert words in text
    for title in ("Who asks", "Your data", "What is done", "What leaves", "Who gets the model", "Your answer"):
        assert title in text
    assert plan.digest() in text


def test_a_founder_that_is_the_coordinator_is_pointed_out(make_plan: Callable[..., StudyPlan]) -> None:
    plan = make_plan()
    assert "coordinator alone admits" in page(plan, founder_is_coordinator=True)
    assert "coordinator alone admits" not in page(plan)


def test_another_flower_app_is_shown_with_its_risk() -> None:
    plan = AppPlan(
        name="quick",
        server_app="q.server:app",
        client_app="q.client:app",
        run_config={"lr": 0.1},
        sites=("Hospital A",),
    )
    text = page(plan)
    assert "q.client:app" in text
    assert "lr = 0.1" in text
    assert "WHATEVER THE APP SENDS" in text
    assert plan.digest() in text


@pytest.mark.parametrize("hostile", ["\x1b[2J\x1b[H", "\r", "\n", "\u202e", "\x9b1A"])
def test_a_plan_cannot_command_the_terminal_of_who_reads_it(make_plan: Callable[..., StudyPlan], hostile: str) -> None:
    plain = page(make_plan(purpose="good"))
    text = page(make_plan(purpose=f"good{hostile}What leaves          nothing"))
    assert hostile[0] not in text.replace("\n", "")
    assert len(text.splitlines()) == len(plain.splitlines())
