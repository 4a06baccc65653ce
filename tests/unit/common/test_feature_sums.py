import functools
import operator
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hansa_common.contract import Column, TableContract
from hansa_common.errors import MessageError
from hansa_common.feature_sums import FeatureSums, measure, num_words, read
from hansa_common.preprocessing_plan import PreprocessingPlan

SPAN = (-100.0, 100.0)
VALUES = st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=40)
CONTRACT = TableContract(
    kind="table",
    label="y",
    classes=("a", "b"),
    columns=(
        Column(name="age", minimum=-100.0, maximum=100.0, missing="fill"),
        Column(name="sex", type="category", categories=("f", "m")),
    ),
)
PLAN = PreprocessingPlan(standardise="federation", missing="median", bins=16, minimum_count=3)


def sums(values: list[float]) -> FeatureSums:
    return FeatureSums.of(np.asarray(values, np.float32), span=SPAN, bins=16)


@settings(max_examples=25, derandomize=True)
@given(values=VALUES, cut=st.integers(0, 40))
def test_sums_are_exact_and_merge_whatever_the_sites(values: list[float], cut: int) -> None:
    exact = [Fraction(value) for value in values]
    whole = sums(values)
    assert Fraction(whole.total, 1 << 172) == sum(exact)
    assert Fraction(whole.squares, 1 << 344) == sum(value * value for value in exact)
    parts = sums(values[:cut]) + sums(values[cut:])
    assert (parts.count, parts.total, parts.squares) == (whole.count, whole.total, whole.squares)
    assert np.array_equal(parts.histogram, whole.histogram)


@settings(max_examples=25, derandomize=True)
@given(sites=st.lists(VALUES, min_size=1, max_size=4))
def test_words_of_sites_add_up_to_the_merged_sums(sites: list[list[float]]) -> None:
    words = np.zeros(33 + 16, np.uint64)
    for values in sites:
        words += sums(values).to_words()
    found, expected = FeatureSums.from_words(words, bins=16), sums([value for values in sites for value in values])
    assert (found.count, found.total, found.squares) == (expected.count, expected.total, expected.squares)
    assert np.array_equal(found.histogram, expected.histogram)


@pytest.mark.parametrize(("centre", "spread"), [(0.0, 1.0), (1e4, 1e-2), (-3e-7, 1e-9), (5e20, 1e18)])
def test_mean_and_variance_are_those_of_the_pooled_data(centre: float, spread: float) -> None:
    values = np.random.default_rng(1).normal(centre, spread, 5_000).astype(np.float32)
    parts = [FeatureSums.of(part, span=None, bins=0) for part in np.array_split(values, 7)]
    merged = functools.reduce(operator.add, parts)
    pooled = values.astype(np.float64)
    assert merged.mean == pytest.approx(pooled.mean(), rel=1e-9, abs=1e-12 * spread)
    assert merged.variance == pytest.approx(pooled.var(), rel=1e-9)


def test_quantiles_are_right_to_a_bin() -> None:
    values = np.random.default_rng(2).uniform(-90.0, 60.0, 20_000).astype(np.float32)
    found = FeatureSums.of(values, span=SPAN, bins=1_000)
    for share in (0.01, 0.25, 0.5, 0.99):
        assert found.quantile(share, SPAN) == pytest.approx(np.quantile(values, share), abs=0.2)


def test_a_missing_value_is_counted_and_nothing_else() -> None:
    found = sums([1.0, float("nan"), 3.0])
    assert (found.count, found.missing, found.mean, found.variance) == (2, 1, 2.0, 1.0)


def test_a_site_with_few_values_of_a_column_tells_nothing_of_it() -> None:
    rows = np.asarray([[1.0, 1.0, 0.0], [2.0, 0.0, 1.0], [np.nan, 0.0, 1.0]], np.float32)
    age, woman, man = read(measure(rows, PLAN, CONTRACT), PLAN, CONTRACT)
    assert (age.count, age.missing, age.total, age.histogram.sum()) == (0, 0, 0, 0)
    assert (woman.count, woman.mean, man.mean) == (3, 1 / 3, 2 / 3)


def bad(place: int, value: int) -> np.ndarray:
    words = measure(np.asarray([[1.0, 1.0, 0.0]] * 4, np.float32), PLAN, CONTRACT)
    words[place] = value
    return words


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (bad(0, 5), "does not add up"),
        (bad(0, 1 << 40), "claim more than"),
        (bad(33, 1 << 39), "claim more than"),
        (bad(12, 1 << 30), "does not go with"),
        (bad(2, 7)[:-1], "the plan asks for other ones"),
    ],
)
def test_what_is_no_sum_of_values_is_refused(words: np.ndarray, message: str) -> None:
    with pytest.raises(MessageError, match=message):
        read(words, PLAN, CONTRACT)


def test_only_numbers_have_a_histogram_and_only_where_quantiles_are_asked_for() -> None:
    assert num_words(PLAN, CONTRACT) == 3 * 33 + 16
    assert num_words(PreprocessingPlan(standardise="federation"), CONTRACT) == 3 * 33
