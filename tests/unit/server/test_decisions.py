import numpy as np
import pytest

from hansa_common.metrics import ClassificationCounts
from hansa_common.plan import CostPlan, EvaluationPlan
from hansa_server.decisions import decisions_of


def counted(seed: int, shift: float = 0.0) -> ClassificationCounts:
    rng = np.random.default_rng(seed)
    labels = (rng.random(600) < 0.2).astype(np.int64)
    scores = 1 / (1 + np.exp(-rng.normal(3.0 * labels - 2.0 + shift, 1.0)))
    members = rng.choice(3, 600, p=[0.5, 0.49, 0.01])[:, None] == np.arange(3)
    return ClassificationCounts.of(np.stack((1 - scores, scores), axis=1), labels, np.zeros(600), members=members)


PLAN = EvaluationPlan(
    cost=CostPlan(false_negative=20.0, false_positive=1.0), groups={"sex": ("f", "m", "x")}, minimum_group=20
)


def test_the_threshold_is_chosen_on_validation_and_paid_for_on_test() -> None:
    validation, test = counted(1), counted(2)
    found = decisions_of(PLAN, validation, test)
    assert found is not None
    assert found.chosen.threshold < 0.5
    assert found.chosen.cost is not None
    assert found.at_half.cost is not None
    assert found.chosen.cost < found.at_half.cost
    on_test = decisions_of(PLAN, counted(2, shift=1.0), test)
    assert on_test is not None
    assert on_test.chosen.threshold != found.chosen.threshold
    assert found.chosen.cost == 20.0 * found.chosen.false_negatives + found.chosen.false_positives


def test_a_group_that_is_too_small_has_no_figures() -> None:
    found = decisions_of(PLAN, counted(1), counted(2))
    assert found is not None
    (sex,) = found.fairness
    assert [group.num_examples is None for group in sex.groups] == [False, False, True]
    assert sex.groups[2].selection_rate is None
    assert sex.worst_group in ("f", "m")
    assert sex.demographic_parity_gap is not None


def test_without_costs_the_threshold_is_one_half_and_costs_nothing() -> None:
    found = decisions_of(PLAN.model_copy(update={"cost": None}), counted(1), counted(2))
    assert found is not None
    assert found.chosen == found.at_half
    assert found.chosen.cost is None


@pytest.mark.parametrize("lacking", ["validation", "test"])
def test_counts_without_decisions_give_none(lacking: str) -> None:
    plain = ClassificationCounts.zero(2)
    sides = (plain, counted(2)) if lacking == "validation" else (counted(1), plain)
    assert decisions_of(PLAN, *sides) is None
