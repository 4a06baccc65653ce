"""Standardising within conditions, held against NumPy on the pooled rows of each condition."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from hansa_common.contract import ArrayContract, Column, TableContract
from hansa_common.errors import StudyFailed
from hansa_common.feature_sums import are_declared, measure, num_words, read
from hansa_common.prepared import Prepared, is_asked_for, prepare
from hansa_common.preprocessing_plan import ConditionPlan, PreprocessingPlan

CONDITION = ConditionPlan(column="feature 2", levels=(0.0, 10.0, 42.0))
PLAN = PreprocessingPlan(standardise="federation", condition=CONDITION, minimum_count=5)
CONTRACT = ArrayContract(kind="array", shape=(4, 3), classes=("a", "b"))
Floats = npt.NDArray[np.float32]


def windows(count: int, seed: int, levels: tuple[float, ...] = CONDITION.levels) -> Floats:
    """Return windows whose other features lie elsewhere, and are spread otherwise, in each condition."""
    rng = np.random.default_rng(seed)
    flown = rng.choice(levels, (count, 4))
    others = rng.normal(100.0 * flown[..., None], 1.0 + flown[..., None], (count, 4, 2))
    return np.stack([others[..., 0], flown + rng.normal(0.0, 0.1, flown.shape), others[..., 1]], axis=2).astype("f4")


def prepared(*sites: Floats) -> Prepared:
    words = sum((measure(site, PLAN, CONTRACT) for site in sites), np.zeros(num_words(PLAN, CONTRACT), np.uint64))
    return prepare(read(words, PLAN, CONTRACT), PLAN, CONTRACT)


def test_each_condition_has_mean_0_and_deviation_1_and_is_still_told() -> None:
    sites = (windows(60, 1), windows(90, 2, (0.0, 10.0)), windows(40, 3, (42.0,)))
    found = prepared(*sites)
    pooled = np.concatenate(sites)
    flown = np.abs(pooled[..., 1:2] - np.asarray(CONDITION.levels)).argmin(axis=2)
    result = found.apply(pooled).astype(np.float64)
    assert result.shape == pooled.shape
    for level in range(3):
        raw = pooled[flown == level].astype(np.float64)
        assert found.mean[3 * level] == pytest.approx(raw[:, 0].mean(), rel=1e-12)
        assert found.deviation[3 * level + 2] == pytest.approx(raw[:, 2].std(), rel=1e-9)
        within = result[flown == level][:, [0, 2]]
        assert np.abs(within.mean(axis=0)).max() < 1e-5
        assert np.abs(within.std(axis=0) - 1.0).max() < 1e-5
    whole = pooled[..., 1].astype(np.float64)
    assert result[..., 1] == pytest.approx((whole - whole.mean()) / whole.std(), abs=1e-5)


def test_the_nearest_level_counts_and_of_two_the_lower() -> None:
    values = np.asarray([-9.0, 4.9, 5.0, 5.1, 26.0, 26.1, 1e9], np.float32)
    assert CONDITION.places(values).tolist() == [0, 0, 0, 1, 1, 2, 2]


def test_a_column_of_a_table_may_tell_the_condition() -> None:
    table = TableContract(kind="table", label="y", classes=("a", "b"), columns=(Column(name="t"), Column(name="x")))
    plan = PreprocessingPlan(
        standardise="federation", condition=ConditionPlan(column="t", levels=(0.0, 1.0)), minimum_count=1
    )
    rows = np.asarray([[0, 1], [0, 3], [1, 10], [1, 30]], np.float32)
    found = prepare(read(measure(rows, plan, table), plan, table), plan, table)
    assert found.apply(rows).tolist() == [[-1, -1], [-1, 1], [1, -1], [1, 1]]


def test_a_condition_that_nobody_has_ends_the_study_and_a_rare_one_stays_at_home() -> None:
    with pytest.raises(StudyFailed, match="No site has values of 'feature 1 at feature 2 42' from 5 units"):
        prepared(windows(50, 1, (0.0, 10.0)))
    rare = windows(50, 1, (0.0, 10.0))
    rare[0, :, 1] = 42.0
    found = read(measure(rare, PLAN, CONTRACT), PLAN, CONTRACT)
    assert [sums.count for sums in found[6:]] == [0, 0, 0]
    assert are_declared(found, PLAN, CONTRACT, 50)
    assert not are_declared(found, PLAN, CONTRACT, 48)


def test_a_row_that_is_in_many_windows_is_of_one_unit_and_stays_at_home() -> None:
    """Otherwise levels chosen by the plan read a single row: mean and deviation of it alone would leave."""
    there = windows(60, 1, (0.0, 10.0))
    there[:6, :, 1] = 42.0  # six windows of 24 values, cut from few rows of two engines
    engines = np.repeat(np.arange(30), 2)
    engines[:6] //= 2
    alone = read(measure(there, PLAN, CONTRACT), PLAN, CONTRACT)
    assert [sums.count for sums in alone[6:]] == [24, 24, 24]
    found = read(measure(there, PLAN, CONTRACT, engines), PLAN, CONTRACT)
    assert [sums.count for sums in found[6:]] == [0, 0, 0]
    assert [sums.count for sums in found[:6]] == [sums.count for sums in alone[:6]]
    assert are_declared(found, PLAN, CONTRACT, 60)
    few = read(measure(there[:4], PLAN, CONTRACT), PLAN, CONTRACT)  # 16 values of 4 examples
    assert not any(sums.count for sums in few)


@pytest.mark.parametrize(
    "changed",
    [
        {"condition": None, "place": 0},
        {"place": 0},
        {"condition": ConditionPlan(column="feature 2", levels=(0.0, 10.0, 41.0))},
        {"mean": (0.0,) * 3, "deviation": (1.0,) * 3},
    ],
)
def test_it_must_be_what_the_plan_asks_for(changed: dict[str, Any]) -> None:
    found = prepared(windows(50, 1))
    assert is_asked_for(found, PLAN, CONTRACT)
    assert not is_asked_for(found.model_copy(update=changed), PLAN, CONTRACT)
    assert found.digest() != found.model_copy(update=changed).digest()
    with pytest.raises(ValueError, match="not as long for each condition"):
        Prepared(mean=(0.0,) * 4, deviation=(1.0,) * 4, condition=CONDITION)
