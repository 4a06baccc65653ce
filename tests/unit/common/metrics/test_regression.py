from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import mean_absolute_error, mean_squared_error, r2_score

from hansa_common.errors import MessageError
from hansa_common.metrics import MomentsKind, RegressionCounts, scores
from hansa_common.metrics.regression import MAX_UNITS, VALUE_ONE, cmapss_score

KIND = MomentsKind(empty=RegressionCounts(scale=125.0, scored=True))
Floats = np.ndarray[tuple[int], np.dtype[np.float64]]


def sample(seed: int, examples: int, scale: float = 1.0) -> tuple[Floats, Floats]:
    """Return predictions and numbers in scales."""
    rng = np.random.default_rng(seed)
    numbers = rng.gamma(2.0, scale, examples)
    return numbers + rng.normal(0.1, 0.3 * scale, examples), numbers


def counted(predictions: Floats, numbers: Floats) -> RegressionCounts:
    empty = KIND.empty
    assert isinstance(empty, RegressionCounts)
    return empty.of(predictions, numbers, (predictions - numbers) ** 2)


def test_figures_are_those_of_scikit_learn_in_the_number_s_own_unit() -> None:
    predictions, numbers = sample(1, 800)
    found = scores(counted(predictions, numbers))
    true, guessed = numbers * 125.0, predictions * 125.0
    assert found.rmse == pytest.approx(mean_squared_error(true, guessed) ** 0.5, rel=1e-5)
    assert found.mae == pytest.approx(mean_absolute_error(true, guessed), rel=1e-5)
    assert found.r2 == pytest.approx(r2_score(true, guessed), abs=1e-6)
    assert found.bias == pytest.approx((guessed - true).mean(), rel=1e-4)
    assert found.loss == pytest.approx(((predictions - numbers) ** 2).mean(), abs=1e-6)
    expected = sum(np.exp(-d / 13) - 1 if d < 0 else np.exp(d / 10) - 1 for d in guessed - true)
    assert found.cmapss_score == pytest.approx(expected, rel=1e-5)
    assert (found.accuracy, found.c_index) == (None, None)


def test_late_predictions_cost_more_than_early_ones() -> None:
    early, late, right = cmapss_score(np.array([-26.0, 20.0, 0.0]))
    assert early == pytest.approx(np.e**2 - 1)
    assert late == pytest.approx(np.e**2 - 1)
    assert right == 0.0
    assert np.isfinite(cmapss_score(np.array([1e9]))).all()


@settings(max_examples=40, deadline=None, derandomize=True)
@given(data=st.data(), examples=st.integers(0, 60), scale=st.sampled_from([1e-3, 1.0, 1e4, 1e6]))
def test_any_split_into_sites_merges_to_the_pooled_counts(data: st.DataObject, examples: int, scale: float) -> None:
    predictions, numbers = sample(data.draw(st.integers(0, 99)), examples, scale)
    sites = np.array(data.draw(st.lists(st.integers(0, 3), min_size=examples, max_size=examples)), dtype=np.int64)
    total = KIND.zero(histograms=False)
    sums = np.zeros(KIND.num_sums(histograms=False), np.uint64)
    for site in range(4):
        part = counted(predictions[sites == site], numbers[sites == site])
        assert KIND.from_arrays(part.to_arrays()) == part
        total = total + part
        sums += part.to_sums()
    pooled = counted(predictions, numbers)
    assert total == pooled
    assert KIND.from_sums(sums, histograms=False) == pooled


def test_the_sums_are_exact() -> None:
    values = np.array([MAX_UNITS, -MAX_UNITS, 3]) / VALUE_ONE
    found = counted(values, np.zeros(3))
    assert found.fourth == 2 * MAX_UNITS**4 + 81
    assert found.squared == 2 * MAX_UNITS**2 + 9
    assert (found.over, found.under) == (MAX_UNITS + 3, MAX_UNITS)


def test_a_larger_error_saturates() -> None:
    assert counted(np.array([1e12]), np.zeros(1)).over == MAX_UNITS
    with pytest.raises(ValueError, match="NaN or infinite"):
        counted(np.array([np.inf]), np.zeros(1))


@pytest.mark.parametrize("row", range(10))
@pytest.mark.parametrize("change", [-1, 1 << 31])
def test_a_sum_that_no_examples_have_is_refused(row: int, change: int) -> None:
    predictions, numbers = sample(2, 50)
    arrays = counted(predictions, numbers).to_arrays()
    changed = arrays["sums"].copy()
    changed[row, 5] = change  # 2**191: no sum of 50 examples
    with pytest.raises(MessageError):
        KIND.from_arrays({"sums": changed})


@pytest.mark.parametrize(
    "changes",
    [
        {"over": 10**9},
        {"squared": 0},
        {"fourth": 1},
        {"number_squared": 1},
        {"loss_units": 1 << 60},
        {"score_units": 1 << 60},
        {"num_examples": 0},
        {"num_examples": 1 << 31},
    ],
)
def test_sums_that_contradict_each_other_are_refused(changes: dict[str, int]) -> None:
    predictions, numbers = sample(3, 50)
    good = {name: getattr(counted(predictions, numbers), name) for name in RegressionCounts.names()}
    lie = RegressionCounts(**(good | changes), scale=125.0, scored=True)
    with pytest.raises(MessageError):
        KIND.from_arrays(lie.to_arrays())
    with pytest.raises(MessageError):
        KIND.from_arrays({"sums": lie.to_arrays()["sums"], "more": np.zeros(1, np.int64)})


def test_counts_in_other_scales_cannot_be_merged() -> None:
    with pytest.raises(RuntimeError, match="Cannot merge"):
        RegressionCounts(scale=1.0).merge(RegressionCounts(scale=2.0))


def test_the_interval_of_the_rmse_covers_what_is_true_in_95_of_100_studies() -> None:
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(400):
        errors = rng.normal(0.0, 2.0, 200)
        low, high = scores(RegressionCounts().of(errors, np.zeros(200), errors**2)).intervals["rmse"]
        inside += low < 2.0 < high
    assert 0.91 < inside / 400 < 0.98


def test_r2_of_equal_numbers_is_undefined() -> None:
    found = scores(RegressionCounts().of(np.array([1.0, 2.0]), np.ones(2), np.zeros(2)))
    assert found.r2 is None
    assert found.rmse == pytest.approx(float(Fraction(1, 2)) ** 0.5)
