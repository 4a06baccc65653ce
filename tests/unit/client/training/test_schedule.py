import math
from typing import Any

import pytest

from hansa_client.training.schedule import learning_rate
from hansa_common.training_plan import TrainingPlan


def rates(*, rounds: int, steps: int, **keys: Any) -> list[float]:
    plan = TrainingPlan(epochs=1, learning_rate=0.5, **keys)
    return [
        learning_rate(plan, rounds=rounds, round_number=number, step=step, steps=steps)
        for number in range(1, rounds + 1)
        for step in range(steps)
    ]


def test_constant_is_constant() -> None:
    assert rates(rounds=3, steps=4) == [0.5] * 12


def test_linear_falls_by_equal_amounts_from_the_peak_and_ends_one_step_above_zero() -> None:
    assert rates(rounds=2, steps=5, schedule="linear") == pytest.approx([0.5 - 0.05 * step for step in range(10)])


def test_cosine_follows_the_formula_of_sgdr() -> None:
    expected = [0.25 * (1 + math.cos(math.pi * step / 12)) for step in range(12)]
    assert rates(rounds=3, steps=4, schedule="cosine") == pytest.approx(expected)


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_warm_up_rises_in_equal_steps_to_the_peak(schedule: str) -> None:
    found = rates(rounds=5, steps=3, schedule=schedule, warmup_rounds=2)
    assert found[:6] == pytest.approx([0.5 * (step + 1) / 6 for step in range(6)])
    assert found[6] == pytest.approx(0.5)


def test_the_decay_after_warm_up_covers_the_remaining_rounds() -> None:
    found = rates(rounds=5, steps=2, schedule="linear", warmup_rounds=1)[2:]
    assert found == pytest.approx([0.5 * (1 - step / 8) for step in range(8)])


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_no_step_has_the_rate_zero(schedule: str) -> None:
    assert min(rates(rounds=4, steps=3, schedule=schedule, warmup_rounds=1)) > 0


def test_a_single_round_may_be_all_warm_up() -> None:
    assert rates(rounds=1, steps=2, schedule="cosine", warmup_rounds=1) == pytest.approx([0.25, 0.5])
