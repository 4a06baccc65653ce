from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hansa_client.ledger import Ledger, create
from hansa_client.settings import PopulationSettings, SiteSettings
from hansa_client.spending import Spending
from hansa_common.errors import BudgetExceeded, PolicyRefused
from hansa_common.losses import losses_of_closing, losses_of_rounds, spent
from hansa_common.messages import EvaluateTask, TrainTask
from hansa_common.plan import StudyPlan
from hansa_common.privacy import Budget, Relation, Unit

P = 650
Make = Callable[..., StudyPlan]
NOISE: dict[str, Any] = {"clipping_bound": 1.0, "noise_multiplier": 1.0, "epsilon": 900.0, "delta": 1e-5}
PERSONS = NOISE | {"kind": "example", "sampling_rate": 0.05, "unit": "patient", "metrics_noise": 20.0}
SITES = NOISE | {"kind": "site_server"}
SETTINGS = SiteSettings(populations={"patients": PopulationSettings(studies=("small",), person="patient")})


def _plan(make_plan: Make, noise: dict[str, Any], rounds: int = 3) -> StudyPlan:
    training = {"optimizer": "sgd", "steps": 10, "batch_size": 16}
    return make_plan(
        replaced={"training": training, "simulation": None},
        privacy={"weights": "equal", "differential": noise},
        federation={"sites": ["a", "b", "c"]},
        rounds={"count": rounds},
    )


def _ledger(folder: Path, epsilon: str, unit: Unit = Unit.EXAMPLE) -> Ledger:
    budget = Budget.of(epsilon, "0.00001")
    return create(folder, "patients", unit=unit, relation=Relation.ADD_OR_REMOVE_ONE, budget=budget)


def _train(plan: StudyPlan, number: int, attempt: int = 1) -> TrainTask:
    return TrainTask(plan_digest=plan.digest(), round=number, attempt=attempt)


def test_each_round_and_the_closing_counts_are_charged_once_over_restarts(tmp_path: Path, make_plan: Make) -> None:
    plan, ledger = _plan(make_plan, PERSONS), _ledger(tmp_path, "50")
    for number in (1, 1, 2, 3):  # a task that is delivered again costs nothing
        Spending(tmp_path, SETTINGS).charge(plan, _train(plan, number), name=f"run:{number}", parameters=P)
    closing = EvaluateTask(plan_digest=plan.digest())
    for _ in range(2):
        Spending(tmp_path, SETTINGS).charge(plan, closing, name="run:evaluate", parameters=P)
    assert [entry.event for entry in ledger.entries()] == ["created", "reserved", *["charged"] * 4]
    whole = (*losses_of_rounds(plan, ("a", "b", "c"), 3, dimension=P), *losses_of_closing(plan))
    assert float(ledger.spent()) == pytest.approx(spent(plan, whole), rel=0.02)


def test_a_plan_that_is_run_again_is_charged_again(tmp_path: Path, make_plan: Make) -> None:
    """The coordinator proposes an approved plan once more: rounds and attempts are the same, and the noise is new."""
    plan, ledger = _plan(make_plan, PERSONS), _ledger(tmp_path, "50")
    spending = Spending(tmp_path, SETTINGS)
    spending.charge(plan, _train(plan, 1), name="small-1:train-1:1:a", parameters=P)
    once = ledger.spent()
    spending.charge(plan, _train(plan, 1), name="small-2:train-1:1:a", parameters=P)
    assert ledger.spent() > once


def test_a_round_that_is_tried_again_is_charged_again(tmp_path: Path, make_plan: Make) -> None:
    plan, ledger = _plan(make_plan, PERSONS), _ledger(tmp_path, "50")
    spending = Spending(tmp_path, SETTINGS)
    spending.charge(plan, _train(plan, 1, attempt=1), name="run:1:1", parameters=P)
    once = ledger.spent()
    spending.charge(plan, _train(plan, 1, attempt=2), name="run:1:2", parameters=P)
    assert ledger.spent() > once


def test_a_plan_that_the_budget_does_not_hold_is_refused_before_its_first_round(
    tmp_path: Path, make_plan: Make
) -> None:
    plan = _plan(make_plan, PERSONS, rounds=400)
    ledger = _ledger(tmp_path, "2")
    with pytest.raises(BudgetExceeded) as refusal:
        Spending(tmp_path, SETTINGS).charge(plan, _train(plan, 1), name="run:1:1", parameters=P)
    assert 0 <= refusal.value.rounds_left < 400
    assert [entry.event for entry in ledger.entries()] == ["created"]


def test_a_plan_without_noise_spends_nothing_and_needs_no_ledger(tmp_path: Path, make_plan: Make) -> None:
    plan = make_plan(replaced={"simulation": None})
    Spending(tmp_path, SiteSettings()).check(plan)
    Spending(tmp_path, SiteSettings()).charge(plan, _train(plan, 1), name="run:1:1", parameters=P)


@pytest.mark.parametrize(
    ("settings", "unit", "noise", "message"),
    [
        (SiteSettings(), Unit.EXAMPLE, PERSONS, "does not say whose privacy"),
        (SETTINGS, None, PERSONS, "has no privacy budget"),
        (SETTINGS, Unit.SITE, PERSONS, "protects a example; the ledger of 'patients' is kept for a site"),
        (SETTINGS, Unit.EXAMPLE, SITES, "protects a site"),
        (SETTINGS, Unit.EXAMPLE, {k: v for k, v in PERSONS.items() if k != "unit"}, "each row for a person"),
        (SETTINGS, Unit.EXAMPLE, PERSONS | {"unit": "visit"}, "takes 'visit' to say whose a row is"),
    ],
    ids=["no population", "no ledger", "ledger of sites", "ledger of persons", "rows for persons", "visits"],
)
def test_what_would_be_charged_to_nobody_or_to_the_wrong_unit_is_refused(
    tmp_path: Path, make_plan: Make, settings: SiteSettings, unit: Unit | None, noise: dict[str, Any], message: str
) -> None:
    if unit is not None:
        _ledger(tmp_path, "50", unit)
    plan = _plan(make_plan, noise)
    with pytest.raises(PolicyRefused, match=message):
        Spending(tmp_path, settings).check(plan)
    with pytest.raises(PolicyRefused, match=message):
        Spending(tmp_path, settings).charge(plan, _train(plan, 1), name="run:1:1", parameters=P)
