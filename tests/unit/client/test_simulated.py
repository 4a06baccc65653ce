import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hansa_client import simulated
from hansa_client.data import ADAPTERS
from hansa_client.data.cifar10 import CLASSES
from hansa_client.simulated import count_sites, divide, load, site_splits, training_sizes
from hansa_common.canonical import digest
from hansa_common.errors import PartitionError, PlanError, UsageError
from hansa_common.plan import StudyPlan, parse_plan

DIGITS = {"kind": "image", "channels": 1, "height": 8, "width": 8, "classes": list("0123456789")}
CREDIT = {
    "kind": "table",
    "label": "default.payment.next.month",
    "classes": ["0", "1"],
    "columns": [{"name": "LIMIT_BAL"}, {"name": "PAY_0", "type": "int"}],
    "minimum_examples": 3,
}


def plan(data: dict[str, Any] = DIGITS, *, seed: int = 0, adapter: str = "digits", path: str | None = None,
         epochs: int = 1, **simulation: Any) -> StudyPlan:  # fmt: skip
    source = {"adapter": adapter} | ({"path": path} if path else {})
    return parse_plan(
        {
            "name": "test",
            "purpose": "a test",
            "seed": seed,
            "model": {"name": "logistic"},
            "data": data,
            "training": {"epochs": epochs},
            "rounds": {"count": 1},
            "simulation": {"data": source} | simulation,
        }
    )


@pytest.fixture
def table(tmp_path: Path) -> Any:
    """Write a table with one patient for each of these; returns the plan of a study of it."""

    def build(hospitals: list[str], **simulation: Any) -> StudyPlan:
        path = tmp_path / "x.csv"
        rows = [f"{number},{hospital},{'ab'[number % 2]}" for number, hospital in enumerate(hospitals)]
        path.write_text("\n".join(["age,hospital,ill", *rows, ""]))
        contract = {
            "kind": "table", "label": "ill", "classes": ["a", "b"], "columns": [{"name": "age"}], "minimum_examples": 1
        }  # fmt: skip
        return plan(contract, adapter="csv", path=str(path), **simulation)

    return build


def test_sites_and_holdout_are_everything_once() -> None:
    sites = divide(plan(sites=10, partition="dirichlet:0.5", holdout=0.1))
    joined = np.concatenate([*sites.indices, sites.holdout])
    assert np.array_equal(np.sort(joined), np.arange(1797))
    assert len(sites.holdout) == 180
    counts = np.bincount(sites.dataset.labels)
    assert np.abs(np.bincount(sites.dataset.labels[sites.holdout]) - 0.1 * counts).max() < 1
    assert min(len(part) for part in sites.indices) >= 10


def test_splits_are_positions_in_the_whole_data_set() -> None:
    study = plan(sites=5)
    sites = divide(study)
    for index, own in enumerate(sites.indices):
        splits = site_splits(study, index)
        joined = np.concatenate([splits.train, splits.validation, splits.test])
        assert np.array_equal(np.sort(joined), own)
        assert len(splits.test) == round(len(own) * 0.2)


def test_sites_with_the_same_labels_split_differently(table: Any) -> None:
    study = table(["north"] * 100 + ["south"] * 100, partition="column:hospital")
    north, south = (site_splits(study, index).test for index in range(2))
    assert len(north) == len(south) == 20
    assert not np.array_equal(north, south - 100)


def test_names_are_padded_so_that_their_order_is_that_of_numbers() -> None:
    assert count_sites(plan(sites=3)) == ("site-1", "site-2", "site-3")
    names = count_sites(plan(sites=120))
    assert (names[0], names[-1]) == ("site-001", "site-120")
    assert list(names) == sorted(names)
    assert divide(plan(sites=12)).names == count_sites(plan(sites=12))
    assert divide(plan(names=["Bremen", "Lübeck"])).names == ("Bremen", "Lübeck")


def test_names_need_no_data_except_for_a_column(table: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert count_sites(plan(sites=2, adapter="csv", path="/absent", data=CREDIT)) == ("site-1", "site-2")
    study = table(["north"] * 6 + ["south"] * 6, partition="column:hospital")
    assert count_sites(study) == ("north", "south")
    assert [len(part) for part in divide(study).indices] == [6, 6]


def test_value_that_is_no_site_name_is_refused(table: Any) -> None:
    with pytest.raises(PartitionError, match="'north/east' is no valid name"):
        divide(table(["north/east"] * 6 + ["south"] * 6, partition="column:hospital"))


def test_sites_have_three_examples_at_least_and_what_the_contract_asks_for(table: Any) -> None:
    with pytest.raises(PartitionError, match=r"'south'.*has 2"):
        divide(table(["north"] * 6 + ["south"] * 2, partition="column:hospital"))
    with pytest.raises(PartitionError, match="1797 examples cannot be divided into 180 sites of at least 10"):
        divide(plan(sites=180))


def test_data_is_read_once_for_all_sites_and_plans_that_share_it(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    original = ADAPTERS["digits"]

    def counting(source: Any, contract: Any) -> Any:
        calls.append(source)
        return original(source, contract)

    monkeypatch.setitem(ADAPTERS._entries, "digits", counting)
    simulated._load.cache_clear()
    simulated._divide.cache_clear()
    threads = [threading.Thread(target=site_splits, args=(plan(sites=8), index)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert divide(plan(sites=8, epochs=2)) is divide(plan(sites=8))
    assert divide(plan(sites=4)).dataset is load(plan(sites=8, seed=1))
    assert len(calls) == 1


def test_seed_decides_about_partition_holdout_and_splits() -> None:
    first, other = plan(sites=3, holdout=0.1, seed=1), plan(sites=3, holdout=0.1, seed=2)
    assert not np.array_equal(divide(first).indices[0], divide(other).indices[0])
    assert not np.array_equal(divide(first).holdout, divide(other).holdout)
    assert not np.array_equal(site_splits(first, 0).test, site_splits(other, 0).test)


def test_what_a_plan_may_lack() -> None:
    with pytest.raises(PlanError, match="no such section"):
        divide(plan(sites=2).approved())
    with pytest.raises(UsageError, match="no data adapter named 'digit'"):
        divide(plan(sites=2, adapter="digit"))


def test_heavy_libraries_stay_out_of_the_process() -> None:
    program = (
        "import sys; from hansa_client import simulated; "
        "print([m for m in ('torch', 'flwr', 'pandas', 'pyarrow', 'sklearn', 'PIL', 'mlxtend') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.needs_data
def test_real_banks_by_education_and_age(real_data: Path) -> None:
    path = str(real_data / "credit_default_taiwan" / "UCI_Credit_Card.csv")
    with pytest.raises(PartitionError, match=r"'73' \(column 'AGE'\) has"):  # too few old clients for a bank
        divide(plan(CREDIT | {"minimum_examples": 10}, adapter="csv", path=path, partition="column:AGE"))
    sites = divide(plan(CREDIT, adapter="csv", path=path, partition="column:EDUCATION"))
    assert sites.names == tuple("0123456")
    assert sum(len(part) for part in sites.indices) == 30_000


@pytest.mark.needs_data
def test_real_images_among_a_thousand_sites(real_data: Path) -> None:
    contract = {
        "kind": "image", "channels": 3, "height": 32, "width": 32, "minimum_examples": 1,
        "classes": list(CLASSES),
    }  # fmt: skip
    path = str(real_data / "cifar10" / "cifar10_10k_2k.npz")
    study = plan(contract, adapter="cifar10", path=path, sites=1_000, partition="dirichlet:1")
    sites = divide(study)
    assert sites.names[-1] == "site-1000"
    assert min(len(part) for part in sites.indices) >= 3
    assert sites.dataset.features.dtype == np.uint8


def test_training_sizes_are_those_of_the_splits() -> None:
    study = plan(sites=3)
    sizes = training_sizes(study)
    assert tuple(sizes) == divide(study).names
    assert list(sizes.values()) == [len(site_splits(study, index).train) for index in range(3)]


def test_a_fraction_takes_from_training_only_alike_from_each_class() -> None:
    shares = (0.1, 0.5, 0.9, 1.0)
    splits = [site_splits(plan(sites=3, partition="dirichlet:1", fraction=share), 1) for share in shares]
    whole = splits[-1]
    for share, found in zip(shares, splits, strict=True):
        assert len(found.train) == round(share * len(whole.train))
        assert set(found.train.tolist()) <= set(whole.train.tolist())
        assert found.test.tolist() == whole.test.tolist()
        assert found.validation.tolist() == whole.validation.tolist()
    labels = divide(plan(sites=3, partition="dirichlet:1")).dataset.labels
    half = np.bincount(labels[splits[1].train], minlength=10) / np.bincount(labels[whole.train], minlength=10)
    assert np.abs(half - 0.5).max() < 0.1  # stratified


def test_a_fraction_is_part_of_who_has_what_but_one_is_as_if_it_were_not_there() -> None:
    assert plan(sites=3, fraction=1.0).simulation_digest() == plan(sites=3).simulation_digest()
    assert plan(sites=3, fraction=0.5).simulation_digest() != plan(sites=3).simulation_digest()
    assert plan(sites=3, fraction=0.5).digest() == plan(sites=3).digest()
    simulation = plan(sites=3).simulation
    assert simulation is not None
    before = simulation.model_dump(mode="json", exclude={"device", "gpus_per_site", "fraction", "leave_out"})
    del before["data"]["weights"]  # younger still
    assert plan(sites=3).simulation_digest() == digest(before)


def test_options_that_are_lists_reach_the_adapter(make_plan: Callable[..., StudyPlan], tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    np.savez(path, x=np.zeros((40, 64)), y=np.arange(40) % 10, ward=np.repeat(["north", "south"], 20))
    source = {"adapter": "npz", "path": str(path), "columns": ["ward"]}
    plan = make_plan(replaced={"simulation": {"partition": "column:ward", "data": source}})
    assert divide(plan).names == ("north", "south")


def test_who_is_left_out_is_part_of_the_simulation_and_nobody_is_as_if_the_key_were_not_there() -> None:
    one, other = (plan(sites=3, leave_out=name) for name in ("site-1", "site-2"))
    assert len({found.simulation_digest() for found in (one, other, plan(sites=3))}) == 3
    assert one.digest() == other.digest() == plan(sites=3).digest()
