from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hansa_client.data import Dataset
from hansa_client.data.partition import partition
from hansa_common.errors import PartitionError
from hansa_common.simulation_plan import Partition


def dataset(labels: Any, **columns: Any) -> Dataset:
    return Dataset(
        features=np.zeros((len(labels), 1), dtype=np.float32),
        labels=np.asarray(labels, dtype=np.int64),
        columns={name: np.asarray(values, dtype=np.str_) for name, values in columns.items()},
        origin="x.csv",
    )


def divide(labels: Any, spec: str, sites: int | None, seed: int = 0, minimum: int = 1) -> list[Any]:
    return [part for _, part in partition(dataset(labels), Partition.parse(spec), sites, seed, minimum=minimum)]


TEN_CLASSES = np.tile(np.arange(10), 200)


@settings(max_examples=150)
@given(
    labels=st.lists(st.integers(0, 4), min_size=1, max_size=120),
    spec=st.sampled_from(["iid", "dirichlet:0.3", "dirichlet:100", "shards:1", "shards:2", "quantity:1"]),
    sites=st.integers(1, 12),
    seed=st.integers(0, 2**63 - 1),
    minimum=st.integers(1, 4),
)
def test_every_example_is_used_once_or_the_reason_is_said(
    labels: list[int], spec: str, sites: int, seed: int, minimum: int
) -> None:
    try:
        parts = divide(labels, spec, sites, seed, minimum)
    except PartitionError:
        return
    assert len(parts) == sites
    assert min(len(part) for part in parts) >= minimum
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(len(labels)))
    for part in parts:
        assert part.dtype == np.int64
        assert (np.diff(part) > 0).all()
    for part, again in zip(parts, divide(labels, spec, sites, seed, minimum), strict=True):
        assert np.array_equal(part, again)


@pytest.mark.parametrize("spec", ["iid", "dirichlet:0.5", "shards:2", "quantity:1"])
def test_seed_decides(spec: str) -> None:
    first, other = divide(TEN_CLASSES, spec, 5, seed=1), divide(TEN_CLASSES, spec, 5, seed=2)
    assert any(not np.array_equal(a, b) for a, b in zip(first, other, strict=True))


def test_iid_sites_differ_by_one_example_at_most() -> None:
    sizes = [len(part) for part in divide(np.zeros(103), "iid", 10)]
    assert sorted(sizes) == [10] * 7 + [11] * 3


def test_dirichlet_skews_labels_by_alpha() -> None:
    """Mean total variation distance between a site's label distribution and the whole data's."""
    distances = []
    for alpha in ("0.1", "1", "1000"):
        histograms = [
            np.bincount(TEN_CLASSES[part], minlength=10) / len(part)
            for seed in range(5)
            for part in divide(TEN_CLASSES, f"dirichlet:{alpha}", 10, seed=seed, minimum=10)
        ]
        distances.append(np.mean([np.abs(histogram - 0.1).sum() / 2 for histogram in histograms]))
    assert distances[0] > 0.55 > distances[1] > 0.2
    assert distances[2] < 0.06


def test_first_class_follows_the_dirichlet_distribution() -> None:
    """With one class no site is full before, so shares are Dir(alpha): variance (S - 1) / (S^2 (S alpha + 1))."""
    sites, alpha = 4, 2.0
    shares = np.asarray(
        [
            [len(part) / 10_000 for part in divide(np.zeros(10_000), f"dirichlet:{alpha}", sites, seed=seed)]
            for seed in range(400)
        ]
    )
    expected = (sites - 1) / (sites**2 * (sites * alpha + 1))
    assert np.allclose(shares.mean(axis=0), 1 / sites, atol=4 * np.sqrt(expected / 400))
    assert shares.var() == pytest.approx(expected, rel=0.15)


def test_all_of_a_class_for_a_full_site_is_drawn_again() -> None:
    labels = np.repeat([0, 1], 500)
    for seed in range(10):  # so small an alpha gives one site everything, and the other exactly nothing
        assert sorted(len(part) for part in divide(labels, "dirichlet:0.0001", 2, seed=seed)) == [500, 500]


def test_quantity_follows_the_dirichlet_distribution_and_keeps_labels_mixed() -> None:
    sizes = np.asarray([[len(part) for part in divide(TEN_CLASSES, "quantity:2", 4, seed=seed)] for seed in range(400)])
    assert (sizes / 2_000).var() == pytest.approx(3 / (16 * 9), rel=0.15)
    for part in divide(TEN_CLASSES, "quantity:50", 4):
        assert np.abs(np.bincount(TEN_CLASSES[part]) / len(part) - 0.1).max() < 0.05


@given(sites=st.integers(1, 20), per_site=st.integers(1, 10), seed=st.integers(0, 1_000))
def test_shards_give_each_site_so_many_labels_and_cover_all(sites: int, per_site: int, seed: int) -> None:
    if sites * per_site < 10:
        with pytest.raises(PartitionError, match="cannot hold the 10 labels"):
            divide(TEN_CLASSES, f"shards:{per_site}", sites, seed=seed)
        return
    parts = divide(TEN_CLASSES, f"shards:{per_site}", sites, seed=seed)
    held = [set(TEN_CLASSES[part].tolist()) for part in parts]
    assert {len(labels) for labels in held} == {per_site}
    usage = [sum(label in labels for labels in held) for label in range(10)]
    assert max(usage) - min(usage) <= 1


def test_column_has_a_site_for_each_value() -> None:
    data = dataset([0, 1, 0, 1], hospital=["south", "north", "north", "south"])
    parts = partition(data, Partition.parse("column:hospital"), None, 0)
    assert [(name, part.tolist()) for name, part in parts] == [("north", [1, 2]), ("south", [0, 3])]


@pytest.mark.parametrize(
    ("column", "sites", "minimum", "message"),
    [
        ("hospitals", None, 1, "x.csv has no column 'hospitals'"),
        ("ward", None, 1, "no value in 1 of 4"),
        ("hospital", 3, 1, "has 2 values"),
        ("hospital", None, 2, r"at least 2 examples: 'north' \(column 'hospital'\) has 1"),
    ],
)
def test_column_that_cannot_be_used(column: str, sites: int | None, minimum: int, message: str) -> None:
    data = dataset([0, 1, 0, 1], hospital=["south", "south", "north", "south"], ward=["", "a", "b", "b"])
    with pytest.raises(PartitionError, match=message):
        partition(data, Partition.parse(f"column:{column}"), sites, 0, minimum=minimum)


def test_unknown_column_lists_columns() -> None:
    with pytest.raises(PartitionError) as caught:
        partition(dataset([0], hospital=["a"], age=["1"]), Partition.parse("column:hospitl"), None, 0)
    assert caught.value.advice == "Did you mean 'hospital'? Allowed: age, hospital."


@pytest.mark.parametrize(
    ("spec", "sites", "message"),
    [
        ("iid", 500, "2000 examples cannot be divided into 500 sites of at least 5"),
        ("dirichlet:0.01", 100, "dirichlet:0.01 gave no division in 1,000 draws"),
        ("quantity:0.05", 50, "quantity:0.05 gave no division"),
    ],
)
def test_too_small_sites_are_refused(spec: str, sites: int, message: str) -> None:
    with pytest.raises(PartitionError, match=message):
        divide(TEN_CLASSES, spec, sites, minimum=5)


def test_small_shard_is_named() -> None:
    labels = [0] * 50 + [1] * 2
    with pytest.raises(PartitionError, match=r"at least 5 examples: site [12] of 2 has 2\."):
        divide(labels, "shards:1", 2, minimum=5)


def test_only_the_given_positions_are_divided() -> None:
    among = np.asarray([3, 5, 7, 11], dtype=np.int64)
    parts = partition(dataset(np.zeros(20)), Partition.parse("iid"), 2, 0, among=among)
    assert sorted(np.concatenate([part for _, part in parts]).tolist()) == among.tolist()


def test_a_thousand_sites() -> None:
    labels = np.tile(np.arange(10), 2_000)
    assert min(len(part) for part in divide(labels, "dirichlet:0.5", 1_000, minimum=3)) >= 3
