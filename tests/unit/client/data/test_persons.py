"""Whose a row is, and splits in which nobody moves when somebody else comes or goes."""

import numpy as np
import pytest

from hansa_client.data.persons import Persons
from hansa_client.data.source import Dataset
from hansa_client.data.split import split_persons
from hansa_common.errors import ContractViolation
from hansa_common.plan import EvaluationPlan

EVALUATION = EvaluationPlan(validation=0.2, test=0.3)


def make_dataset(persons: int = 400, *, seed: int = 0) -> Dataset:
    """Persons with 1 to 5 rows, in any order."""
    rng = np.random.default_rng(seed)
    ids = rng.permutation(np.repeat(np.arange(persons), rng.integers(1, 6, persons)))
    return Dataset(
        features=rng.normal(size=(len(ids), 3)).astype(np.float32),
        labels=rng.integers(0, 2, len(ids)),
        columns={"patient": np.array([f"p{number}" for number in ids])},
    )


def test_rows_are_grouped_by_person() -> None:
    dataset = Dataset(
        features=np.zeros((6, 1), np.float32),
        labels=np.zeros(6, np.int64),
        columns={"patient": np.array(["b", "a", "b", "c", "b", "a"])},
    )
    persons = Persons.of(dataset, "patient", np.array([0, 1, 2, 4, 5]))  # without c
    assert len(persons) == 2
    groups = [
        persons.rows[start : start + size].tolist() for start, size in zip(persons.starts, persons.sizes, strict=True)
    ]
    assert groups == [[1, 4], [0, 2, 3]]  # places among the positions
    drawn = persons.draw_rows(np.array([True, True]), lambda limits: limits - 1)
    assert drawn.tolist() == [4, 3]
    assert persons.draw_rows(np.array([False, True]), np.zeros_like).tolist() == [0]


def test_without_a_unit_each_row_is_a_person() -> None:
    persons = Persons.of(make_dataset(), None, np.array([5, 9, 2]))
    assert persons.rows.tolist() == [0, 1, 2]
    assert persons.sizes.tolist() == [1, 1, 1]


def test_a_missing_column_is_named() -> None:
    with pytest.raises(ContractViolation, match=r"'pateint' is missing.*Did you mean 'patient'"):
        Persons.of(make_dataset(), "pateint", np.arange(3))
    bare = Dataset(features=np.zeros((3, 1), np.float32), labels=np.zeros(3, np.int64))
    with pytest.raises(ContractViolation, match=r"'patient' is missing.*further columns here: none"):
        Persons.of(bare, "patient", np.arange(3))


def test_a_row_of_nobody_is_refused() -> None:
    dataset = make_dataset()
    dataset.columns["patient"][7] = ""
    with pytest.raises(ContractViolation, match=r"'patient'.*no value in 1 row\(s\).*example 8"):
        Persons.of(dataset, "patient", np.arange(3))


@pytest.mark.parametrize("unit", ["patient", None])
def test_splits_are_disjoint_complete_seeded_and_of_the_shares(unit: str | None) -> None:
    dataset = make_dataset(2_000)
    own = np.arange(10, len(dataset))
    splits = split_persons(dataset, unit, own, EVALUATION, 7)
    parts = (splits.train, splits.validation, splits.test)
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), own)
    assert all((np.diff(part) > 0).all() for part in parts)
    shares = [len(part) / len(own) for part in parts]
    np.testing.assert_allclose(shares, [0.5, 0.2, 0.3], atol=0.05)
    again, other = (split_persons(dataset, unit, own, EVALUATION, seed) for seed in (7, 8))
    np.testing.assert_array_equal(again.train, splits.train)
    assert not np.array_equal(other.train, splits.train)


def test_a_person_is_in_one_split() -> None:
    dataset = make_dataset()
    splits = split_persons(dataset, "patient", np.arange(len(dataset)), EVALUATION, 7)
    names = [set(dataset.columns["patient"][part]) for part in (splits.train, splits.validation, splits.test)]
    assert all(names)
    assert not names[0] & names[1]
    assert not names[0] & names[2]
    assert not names[1] & names[2]


@pytest.mark.parametrize("unit", ["patient", None])
def test_nobody_moves_when_somebody_leaves(unit: str | None) -> None:
    dataset = make_dataset(60)
    everybody = split_persons(dataset, unit, np.arange(len(dataset)), EVALUATION, 7)
    gone = dataset.columns["patient"] == "p3" if unit else np.arange(len(dataset)) == 4
    left = np.flatnonzero(~gone)
    smaller = dataset.take(left)
    without = split_persons(smaller, unit, np.arange(len(smaller)), EVALUATION, 7)
    for before, after in zip(
        (everybody.train, everybody.validation, everybody.test),
        (without.train, without.validation, without.test),
        strict=True,
    ):
        np.testing.assert_array_equal(before[~gone[before]], left[after])
