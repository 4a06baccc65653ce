import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hansa_common.errors import MessageError
from hansa_common.metrics import Importance, num_importance_sums
from hansa_common.metrics.importance import MOST_ATTRIBUTED, MOST_MERGED, UNIT

K, G = 3, 4


def some(seed: int, examples: int = 20) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    signed = rng.normal(size=(examples, G))
    return np.maximum(signed, 0.0), np.maximum(-signed, 0.0), rng.integers(0, K, examples)


def test_means_are_those_of_the_examples_of_a_class() -> None:
    raising, lowering, labels = some(1)
    found = Importance.of(raising, lowering, labels, K)
    for label in range(K):
        signed = (raising - lowering)[labels == label]
        np.testing.assert_allclose(found.mean_absolute()[label], np.abs(signed).mean(axis=0), atol=1 / UNIT)
        np.testing.assert_allclose(found.mean()[label], signed.mean(axis=0), atol=1 / UNIT)
    assert found.num_examples == 20


def test_merged_sums_are_bit_for_bit_the_pooled_ones() -> None:
    raising, lowering, labels = some(2, 30)
    pooled = Importance.of(raising, lowering, labels, K)
    parts = [Importance.of(raising[part], lowering[part], labels[part], K) for part in np.split(np.arange(30), [7, 11])]
    assert parts[0] + parts[1] + parts[2] == pooled == parts[2] + (parts[0] + parts[1])
    wire = sum((part.to_sums() for part in parts), np.zeros(num_importance_sums(K, G), np.uint64))
    assert Importance.from_sums(wire, classes=K, groups=G, most=30) == pooled


def test_a_class_without_examples_has_no_mean() -> None:
    found = Importance.of(np.ones((1, G)), np.zeros((1, G)), np.array([2]), K)
    assert np.isnan(found.mean_absolute()[:2]).all()
    assert (found.mean()[2] == 1.0).all()


def test_classes_below_the_minimum_are_taken_out_whole() -> None:
    labels = np.array([0] * 9 + [1] * 10)
    found = Importance.of(np.ones((19, G)), np.ones((19, G)), labels, K).suppressed(10)
    assert found.examples.tolist() == [0, 10, 0]
    assert found.raising[0].sum() == found.lowering[0].sum() == 0
    assert found.raising[1].tolist() == [10 * UNIT] * G


def test_one_example_can_add_only_so_much() -> None:
    found = Importance.of(np.full((1, G), 1e30), np.zeros((1, G)), np.array([0]), K)
    assert found.raising.max() == MOST_ATTRIBUTED * UNIT
    assert Importance.from_sums(found.to_sums(), classes=K, groups=G, most=1) == found


@pytest.mark.parametrize("value", [-1e-9, np.nan, np.inf])
def test_what_is_no_attribution_is_refused(value: float) -> None:
    values = np.zeros((1, G))
    values[0, 2] = value
    for raising, lowering in ((values, np.zeros((1, G))), (np.zeros((1, G)), values)):
        with pytest.raises(ValueError, match="negative, NaN or infinite"):
            Importance.of(raising, lowering, np.array([0]), K)


@pytest.mark.parametrize("label", [-1, K])
def test_a_label_out_of_range_is_refused(label: int) -> None:
    with pytest.raises(ValueError, match="outside"):
        Importance.of(np.zeros((1, G)), np.zeros((1, G)), np.array([label]), K)


def honest() -> np.ndarray:
    return Importance.of(*some(3), K).to_sums()


def test_another_length_or_type_is_refused() -> None:
    for changed in (honest()[:-1], np.append(honest(), np.uint64(0)), honest().reshape(1, -1), honest().astype(">u4")):
        with pytest.raises(MessageError, match="values"):
            Importance.from_sums(changed, classes=K, groups=G, most=20)


@pytest.mark.parametrize("count", [21, 2**63, 2**64 - 1])
def test_more_examples_than_there_may_be_are_refused(count: int) -> None:
    sums = honest()
    sums[0] = count
    with pytest.raises(MessageError, match="claim more"):
        Importance.from_sums(sums, classes=K, groups=G, most=20)


def test_many_counts_that_wrap_around_together_are_refused() -> None:
    sums = np.zeros(num_importance_sums(K, G), np.uint64)
    sums[:K] = MOST_MERGED
    with pytest.raises(MessageError, match="claim more"):
        Importance.from_sums(sums, classes=K, groups=G, most=2**62)


def test_more_than_the_examples_can_add_up_to_is_refused() -> None:
    sums = honest()
    sums[K] = sums[0] * np.uint64(int(MOST_ATTRIBUTED) * UNIT)
    Importance.from_sums(sums, classes=K, groups=G, most=20)
    sums[K] += np.uint64(1)
    with pytest.raises(MessageError, match="add up to"):
        Importance.from_sums(sums, classes=K, groups=G, most=20)


@given(st.lists(st.integers(0, 2**64 - 1), min_size=8, max_size=10))
def test_whatever_comes_in_is_refused_or_read_back_as_it_was(values: list[int]) -> None:
    sums = np.array(values, np.uint64)
    try:
        found = Importance.from_sums(sums, classes=2, groups=2, most=50)
    except MessageError:
        return
    assert np.array_equal(found.to_sums(), sums)


def test_sites_that_add_up_to_too_much_are_refused() -> None:
    one = Importance.zero(K, G)
    one.examples[0] = MOST_MERGED
    with pytest.raises(MessageError, match="more than"):
        one + one
    with pytest.raises(RuntimeError):
        one + Importance.zero(K, G + 1)
