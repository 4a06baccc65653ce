from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hansa_client.data.source import Dataset
from hansa_client.data.split import apportion, draw, split, split_by_column, split_groups
from hansa_common.errors import ContractViolation
from hansa_common.plan import EvaluationPlan

PLAN = EvaluationPlan(validation=0.1, test=0.2)
LABELS = st.lists(st.integers(0, 9), min_size=2, max_size=80).map(lambda labels: np.asarray(labels, dtype=np.int64))


@given(labels=LABELS, seed=st.integers(0, 2**63 - 1), validation=st.floats(0.0, 0.4), test=st.floats(0.01, 0.5))
def test_splits_are_disjoint_and_together_everything(
    labels: np.ndarray, seed: int, validation: float, test: float
) -> None:
    splits = split(labels, EvaluationPlan(validation=validation, test=test), seed)
    joined = np.concatenate([splits.train, splits.validation, splits.test])
    assert np.array_equal(np.sort(joined), np.arange(len(labels)))
    assert len(splits.train) >= 1
    assert len(splits.test) == min(max(1, round(len(labels) * test)), len(labels) - 1)
    assert (len(splits.validation) > 0) == (validation > 0 and len(labels) - len(splits.test) >= 2)
    for part in (splits.train, splits.validation, splits.test):
        assert part.dtype == np.int64
        assert np.array_equal(part, np.sort(part))


def test_every_class_has_its_share() -> None:
    labels = np.repeat(np.arange(3), [100, 50, 10])
    splits = split(labels, PLAN, 1)
    assert np.bincount(labels[splits.test]).tolist() == [20, 10, 2]
    assert np.bincount(labels[splits.validation]).tolist() == [10, 5, 1]
    assert np.bincount(labels[splits.train]).tolist() == [70, 35, 7]


def test_rare_classes_stay_in_training() -> None:
    labels = np.asarray([0] * 20 + [1, 2])
    for seed in range(20):
        train = split(labels, EvaluationPlan(validation=0.3, test=0.5), seed).train
        assert {1, 2} <= set(labels[train].tolist())


def test_classes_of_one_example_are_split_all_the_same() -> None:
    splits = split(np.arange(10), PLAN, 0)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (7, 1, 2)


def test_seed_decides() -> None:
    labels = np.repeat(np.arange(2), 50)
    first, again, other = (split(labels, PLAN, seed) for seed in (5, 5, 6))
    assert np.array_equal(first.test, again.test)
    assert not np.array_equal(first.test, other.test)


@pytest.mark.parametrize(("count", "expected"), [(2, (1, 0, 1)), (3, (1, 1, 1)), (4, (2, 1, 1))])
def test_smallest_sites(count: int, expected: tuple[int, int, int]) -> None:
    splits = split(np.zeros(count, dtype=np.int64), PLAN, 0)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == expected


@pytest.mark.parametrize("count", [0, 1])
def test_a_site_with_one_example_is_refused(count: int) -> None:
    with pytest.raises(ContractViolation, match=rf"has {count} example\(s\)"):
        split(np.zeros(count, dtype=np.int64), PLAN, 0)


def test_every_example_is_equally_likely_to_be_drawn() -> None:
    labels = np.repeat(np.arange(3), [30, 20, 10])
    times = np.zeros(60)
    for seed in range(1_000):
        times[draw(labels, (12,), np.random.default_rng(seed))[0]] += 1
    # each expects 200 of 1,000; the standard deviation is 12.6, and 60 examples stay within 4 of them
    assert np.abs(times - 200).max() < 51


@given(
    weights=st.lists(st.integers(0, 50), min_size=1, max_size=8),
    total=st.integers(0, 60),
    seed=st.integers(0, 100),
    data=st.data(),
)
def test_apportion_keeps_quota_and_capacity(weights: list[int], total: int, seed: int, data: st.DataObject) -> None:
    capacity = np.asarray(
        data.draw(st.lists(st.integers(0, 60), min_size=len(weights), max_size=len(weights))), dtype=np.int64
    )
    shares = apportion(total, np.asarray(weights), capacity, np.random.default_rng(seed))
    expected = min(total, int(capacity.sum())) if any(weights) else 0
    assert shares.sum() == expected
    assert (shares <= capacity).all()
    if any(weights) and (capacity > total).all():  # the quota rule: each share is its quota rounded up or down
        for share, weight in zip(shares, weights, strict=True):
            assert abs(Fraction(total * weight, sum(weights)) - int(share)) < 1


def rows(**columns: list[str]) -> Dataset:
    count = len(next(iter(columns.values())))
    return Dataset(
        features=np.zeros((count, 1), dtype=np.float32),
        labels=np.zeros(count, dtype=np.int64),
        columns={name: np.asarray(values, dtype=np.str_) for name, values in columns.items()},
        origin="rows.csv",
    )


def test_the_data_may_bring_their_split() -> None:
    dataset = rows(fold=["test", "train", "validation", "train", "test", "train"])
    splits = split_by_column(dataset, "fold", np.asarray([1, 2, 3, 4]))
    assert splits.train.tolist() == [1, 3]
    assert splits.validation.tolist() == [2]
    assert splits.test.tolist() == [4]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["train", "test", "Test"], "says 'Test' in example 3 and something else than train, validation, test in 1 of"),
        (["train", "test", ""], "has no value in 1 row"),
        (["train", "train", "validation"], "no row says 'test'"),
        (["test", "test", "validation"], "no row says 'train'"),
    ],
)
def test_another_split_than_the_three_is_refused(values: list[str], message: str) -> None:
    with pytest.raises(ContractViolation, match=message):
        split_by_column(rows(fold=values), "fold", np.arange(3))


def test_data_without_the_column_of_the_split_are_refused() -> None:
    with pytest.raises(ContractViolation, match=r"'fold' is missing, which says which split.*evaluation\.column"):
        split_by_column(rows(folds=["train", "test"]), "fold", np.arange(2))


@settings(max_examples=40)
@given(
    members=st.lists(st.integers(0, 9), min_size=2, max_size=60).filter(lambda found: len(set(found)) > 1),
    seed=st.integers(0, 2**63 - 1),
    validation=st.floats(0.0, 0.4),
    test=st.floats(0.01, 0.5),
)
def test_a_group_is_in_one_split(members: list[int], seed: int, validation: float, test: float) -> None:
    dataset = rows(patient=[str(member) for member in members])
    evaluation = EvaluationPlan(validation=validation, test=test)
    splits = split_groups(dataset, "patient", np.arange(len(members)), evaluation, seed)
    parts = (splits.train, splits.validation, splits.test)
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(len(members)))
    groups = [{members[position] for position in part} for part in parts]
    assert groups[0]
    assert groups[2]
    assert sum(map(len, groups)) == len(set(members))


def test_a_group_of_two_sites_is_in_the_same_split_at_both() -> None:
    names = [f"patient {number}" for number in range(400)]
    dataset = rows(patient=names * 2)
    first, second = (split_groups(dataset, "patient", own, PLAN, 3) for own in (np.arange(400), np.arange(400, 800)))
    assert np.array_equal(first.test + 400, second.test)
    assert np.array_equal(first.validation + 400, second.validation)
    # each of 400 groups is tested with probability .2: 80, standard deviation 8
    assert abs(len(first.test) - 80) < 32
    assert abs(len(first.validation) - 40) < 24


def test_a_single_group_is_refused() -> None:
    with pytest.raises(
        ContractViolation, match=r"'patient' \(evaluation\.group\) says the same in all rows of the site"
    ):
        split_groups(rows(patient=["a", "a"]), "patient", np.arange(2), PLAN, 0)
