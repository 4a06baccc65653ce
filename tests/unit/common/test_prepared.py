from typing import Any

import numpy as np
import pytest

from hansa_common.contract import ArrayContract, Column, TableContract
from hansa_common.errors import PlanError, StudyFailed
from hansa_common.feature_sums import measure, read
from hansa_common.plan import StudyPlan, parse_plan
from hansa_common.prepared import Prepared, is_asked_for, prepare
from hansa_common.preprocessing_plan import PreprocessingPlan

TABLE = TableContract(
    kind="table",
    label="y",
    classes=("a", "b"),
    columns=(
        Column(name="age", minimum=0.0, maximum=100.0, missing="fill"),
        Column(name="dose", minimum=0.0, maximum=10.0),
        Column(name="sex", type="category", categories=("f", "m")),
    ),
)
RNG = np.random.default_rng(3)
ROWS = np.stack(
    [RNG.uniform(20, 80, 300), RNG.exponential(1.0, 300).clip(0, 10), np.arange(300) % 2, (np.arange(300) + 1) % 2], 1
).astype(np.float32)


def make(plan: PreprocessingPlan, rows: np.ndarray = ROWS) -> Prepared:
    return prepare(read(measure(rows, plan, TABLE), plan, TABLE), plan, TABLE)


def test_what_is_standardised_has_mean_0_and_deviation_1() -> None:
    found = make(PreprocessingPlan(standardise="federation")).apply(ROWS).astype(np.float64)
    assert np.abs(found.mean(axis=0)).max() < 1e-6
    assert np.abs(found.std(axis=0) - 1.0).max() < 1e-6


def test_missing_values_are_filled_before_the_rest() -> None:
    rows = ROWS.copy()
    rows[:50, 0] = np.nan
    for missing, expected in (("mean", np.nanmean(rows[:, 0])), ("median", np.nanmedian(rows[:, 0]))):
        plan = PreprocessingPlan.model_validate({"missing": missing})
        found = make(plan, rows).apply(rows)
        assert found[0, 0] == pytest.approx(expected, abs=0.2)
        assert np.array_equal(found[50:], rows[50:])
        assert np.array_equal(found[:, 1:], rows[:, 1:])


def test_numbers_are_clipped_to_quantiles_and_categories_stay() -> None:
    found = make(PreprocessingPlan(clip_quantiles=(0.05, 0.95))).apply(ROWS)
    assert found[:, 1].max() == pytest.approx(np.quantile(ROWS[:, 1], 0.95), abs=0.1)
    assert found[:, 0].min() == pytest.approx(np.quantile(ROWS[:, 0], 0.05), abs=0.6)  # 300 rows lie .2 apart
    assert np.array_equal(found[:, 2:], ROWS[:, 2:])


def test_a_constant_feature_becomes_0() -> None:
    rows = ROWS.copy()
    rows[:, 1] = 0.1
    assert not make(PreprocessingPlan(standardise="federation"), rows).apply(rows)[:, 1].any()


def test_a_feature_of_which_nobody_has_enough_ends_the_study() -> None:
    rows = ROWS.copy()
    rows[:, 0] = np.nan
    with pytest.raises(StudyFailed, match="No site has values of 'age' from 10 units"):
        make(PreprocessingPlan(missing="mean"), rows)


def test_arrays_are_standardised_along_their_last_axis() -> None:
    contract = ArrayContract(kind="array", shape=(5, 2), classes=("a", "b"))
    plan = PreprocessingPlan(standardise="federation")
    windows = RNG.normal((1.0, 200.0), (3.0, 0.5), (40, 5, 2)).astype(np.float32)
    prepared = prepare(read(measure(windows, plan, contract), plan, contract), plan, contract)
    assert prepared.mean == pytest.approx(windows.astype(np.float64).mean(axis=(0, 1)), rel=1e-9)
    assert prepared.deviation == pytest.approx(windows.astype(np.float64).std(axis=(0, 1)), rel=1e-9)


@pytest.mark.parametrize(
    "wrong",
    [
        {"mean": [0.0] * 4, "deviation": [1.0, 0.0, 1.0, 1.0]},
        {"mean": [0.0] * 4, "deviation": [1.0] * 3},
        {"low": [1.0], "high": [0.0]},
        {"mean": [float("nan")], "deviation": [1.0]},
        {"mean": [0.0], "deviation": [float("inf")]},
    ],
)
def test_numbers_that_prepare_nothing_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="validation error"):
        Prepared.model_validate(wrong)


def test_it_must_be_what_the_plan_asks_for() -> None:
    plan = PreprocessingPlan(standardise="federation")
    assert is_asked_for(make(plan), plan, TABLE)
    assert not is_asked_for(None, plan, TABLE)
    assert not is_asked_for(make(plan), PreprocessingPlan(), TABLE)
    assert not is_asked_for(Prepared(mean=(0.0,), deviation=(1.0,)), plan, TABLE)
    assert not is_asked_for(make(PreprocessingPlan(missing="mean", standardise="federation")), plan, TABLE)
    assert is_asked_for(None, PreprocessingPlan(), TABLE)


STUDY: dict[str, Any] = {
    "name": "prepared",
    "purpose": "A test.",
    "model": {"name": "logistic"},
    "data": {
        "kind": "table",
        "label": "y",
        "classes": ["a", "b"],
        "columns": [{"name": "age", "missing": "fill"}, {"name": "dose", "minimum": 0.0, "maximum": 1.0}],
    },
    "training": {"steps": 1},
    "rounds": {"count": 1},
}


@pytest.mark.parametrize(
    ("preprocessing", "message"),
    [
        ({}, "'age' has missing = 'fill'; say with what"),
        ({"missing": "median"}, "quantiles of 'age' are read from a histogram over its range"),
        ({"missing": "mean", "clip_quantiles": [0.9, 0.1]}, "0.9 is not below 0.1"),
        ({"missing": "mean", "bin": 3}, "unknown key"),
    ],
)
def test_preprocessing_that_does_not_go_with_the_data_is_refused(preprocessing: Any, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        parse_plan(STUDY | {"preprocessing": preprocessing})


def test_it_is_in_the_digest_and_refused_beside_noise() -> None:
    def plan(**sections: Any) -> StudyPlan:
        return parse_plan(STUDY | {"preprocessing": {"missing": "mean"}} | sections)

    standardised = {"missing": "mean", "standardise": "federation"}
    assert plan().digest() != plan(preprocessing=standardised).digest()
    noised = {"kind": "site_server", "clipping_bound": 1.0, "noise_multiplier": 1.0, "epsilon": 3.0, "delta": 1e-5}
    with pytest.raises(PlanError, match="the sites' statistics leave without noise"):
        plan(privacy={"weights": "equal", "differential": noised})
    twice = STUDY["data"] | {"standardise": "site"}
    with pytest.raises(PlanError, match="leave one of them out"):
        plan(data=twice, preprocessing=standardised)
