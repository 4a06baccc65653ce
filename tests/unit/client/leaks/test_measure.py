from collections.abc import Callable
from typing import Any

import pytest

from hansa_client.leaks.measure import measure
from hansa_common.errors import UsageError
from hansa_common.leakage import Leakage
from hansa_common.plan import StudyPlan

TINY = {"optimizer": "sgd", "learning_rate": 0.5, "batch_size": 64, "steps": 2}


def audit(plan: StudyPlan, **options: Any) -> tuple[Leakage, list[tuple[str, float]]]:
    told: list[tuple[str, float]] = []
    leakage, pictures = measure(
        plan, rounds=options.pop("rounds", None), tell=lambda what, share: told.append((what, share))
    )
    assert pictures == ()  # the small study's examples are arrays
    return leakage, told


@pytest.mark.slow
def test_a_plan_without_protection_is_measured_beside_masks(make_plan: Callable[..., StudyPlan]) -> None:
    plan = make_plan(model={"name": "mlp", "hidden": [512]}, replaced={"training": TINY})
    leakage, told = audit(plan, rounds=1)
    assert (leakage.asked_for, leakage.sums_only, leakage.claimed_epsilon) == (False, True, None)
    assert (leakage.rounds, leakage.rounds_planned, leakage.sites) == (1, 3, 4)
    bare, guarded = (
        {entry.setting: entry for entry in side.reconstructions} for side in (leakage.unprotected, leakage.protected)
    )
    assert (bare["batch_1"].exact, bare["batch_1"].examples) == (4, 4)
    assert (bare["batch_4"].exact, bare["batch_4"].examples) == (16, 16)
    assert bare["batch_4"].by_chance == 0
    assert guarded["batch_4"].recovered < 16
    assert set(bare) == {"batch_1", "batch_4", "round"}
    assert told[-1] == ("with protection: training with canaries", 1.0)
    assert Leakage.model_validate_json(leakage.model_dump_json()) == leakage


@pytest.mark.slow
def test_two_sites_without_protection_have_nothing_to_be_measured_beside(make_plan: Callable[..., StudyPlan]) -> None:
    with pytest.raises(UsageError, match="three sites"):
        audit(make_plan(replaced={"simulation": {"sites": 2, "data": {"adapter": "digits"}}}))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")  # of the library that clips gradients
def test_the_plan_s_own_protection_is_measured(make_plan: Callable[..., StudyPlan]) -> None:
    privacy = {
        "weights": "equal",
        "differential": {
            "kind": "example",
            "clipping_bound": 1.0,
            "noise_multiplier": 0.8,
            "epsilon": 8.0,
            "delta": 1e-4,
            "sampling_rate": 0.1,
        },
    }
    training = {"optimizer": "sgd", "learning_rate": 0.5, "batch_size": 32, "steps": 20}
    plan = make_plan(
        model={"name": "mlp", "hidden": [64]},
        replaced={"training": training, "privacy": privacy},
        evaluation={"test": 0.4},
        seed=10,
    )
    leakage, _ = audit(plan)
    assert (leakage.asked_for, leakage.sums_only, leakage.unit) == (True, False, "person")
    guarded = {entry.setting: entry for entry in leakage.protected.reconstructions}
    assert guarded["batch_1"].recovered == guarded["batch_4"].recovered == 0
    assert guarded["round"].recovered <= guarded["round"].by_chance + 2
    assert leakage.protected.membership.low <= 0.52
    assert leakage.protected.canaries.epsilon < 8.0


def test_what_a_hessian_tells_is_not_measured_as_if_it_came_from_training(make_plan: Callable[..., StudyPlan]) -> None:
    with pytest.raises(UsageError, match="send loss, gradient and Hessian"):
        audit(make_plan(aggregation={"strategy": "newton"}))
