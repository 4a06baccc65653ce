"""A real site that holds what a simulated one holds does, to the last bit, what the simulated one does."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hansa_client.site_data import SiteData, real_site, simulated_site
from hansa_client.work import Work
from hansa_common.errors import ContractViolation, DataUnavailable, TaskRefused, UsageError
from hansa_common.messages import InitialTask, Message, TrainTask, Update
from hansa_common.metrics import of_classes
from hansa_common.plan import StudyPlan
from hansa_common.simulation_plan import SourcePlan

INDEX = 2


@pytest.fixture
def simulated(small_plan: StudyPlan) -> SiteData:
    return simulated_site(small_plan, INDEX)


@pytest.fixture
def real(small_plan: StudyPlan, simulated: SiteData, tmp_path: Path) -> SiteData:
    """A site whose file holds the rows of the simulated one."""
    path = tmp_path / "rows.npz"
    np.savez(path, x=simulated.dataset.features[simulated.own], y=simulated.dataset.labels[simulated.own])
    source = SourcePlan(adapter="npz", path=str(path))
    return real_site(small_plan, name=simulated.name, index=INDEX, source=source)


def trained(plan: StudyPlan, site: SiteData, round_number: int = 1) -> Message:
    work = Work(plan, site, "cpu")
    start = work.do(Message(header=InitialTask(plan_digest=plan.digest()))).vector
    task = TrainTask(plan_digest=plan.digest(), round=round_number, attempt=1)
    return work.do(Message(header=task, vector=start))


def test_the_splits_are_those_of_the_simulation(simulated: SiteData, real: SiteData) -> None:
    for name in ("train", "validation", "test"):
        positions = getattr(real.splits, name)
        np.testing.assert_array_equal(simulated.own[positions], getattr(simulated.splits, name))
    assert real.simulation is None


@pytest.mark.parametrize("round_number", [1, 2])
def test_training_gives_the_same_bits(
    small_plan: StudyPlan, simulated: SiteData, real: SiteData, round_number: int
) -> None:
    there, here = (trained(small_plan, site, round_number) for site in (simulated, real))
    assert there.vector is not None
    assert here.vector is not None
    assert here.vector.tobytes() == there.vector.tobytes()
    assert isinstance(here.header, Update)
    assert isinstance(there.header, Update)
    assert here.header.train_loss == there.header.train_loss
    found = [of_classes(side.counts["validation"]).confusion for side in (here, there)]
    np.testing.assert_array_equal(found[0], found[1])


def test_another_place_among_the_sites_is_another_draw(small_plan: StudyPlan, real: SiteData, tmp_path: Path) -> None:
    source = SourcePlan(adapter="npz", path=str(tmp_path / "rows.npz"))
    other = real_site(small_plan, name="other", index=INDEX + 1, source=source)
    assert not np.array_equal(other.splits.train, real.splits.train)


def test_all_rows_are_the_sites_own(real: SiteData) -> None:
    splits = real.splits
    together = np.concatenate([splits.train, splits.validation, splits.test])
    assert sorted(together) == list(range(len(real.dataset))) == real.own.tolist()


@pytest.mark.parametrize("index", [-1, 4])
def test_a_simulated_site_that_is_not_there_is_refused(small_plan: StudyPlan, index: int) -> None:
    with pytest.raises(TaskRefused):
        simulated_site(small_plan, index)


def test_an_adapter_that_is_not_there_is_refused(small_plan: StudyPlan) -> None:
    with pytest.raises(UsageError):
        real_site(small_plan, name="a", index=0, source=SourcePlan(adapter="nothing"))


def test_a_file_that_is_not_there_is_named(small_plan: StudyPlan, tmp_path: Path) -> None:
    with pytest.raises(DataUnavailable):
        real_site(small_plan, name="a", index=0, source=SourcePlan(adapter="npz", path=str(tmp_path / "none.npz")))


def test_data_that_breaks_the_contract_is_refused(make_plan: Callable[..., StudyPlan], real: SiteData) -> None:
    plan = make_plan(data={"maximum": 0.5})
    path = real.dataset.origin
    with pytest.raises(ContractViolation):
        real_site(plan, name="a", index=0, source=SourcePlan(adapter="npz", path=path))


def test_a_plan_that_protects_persons_asks_for_their_column(
    make_plan: Callable[..., StudyPlan], simulated: SiteData, tmp_path: Path
) -> None:
    differential = {
        "kind": "example",
        "clipping_bound": 1.0,
        "noise_multiplier": 1.0,
        "epsilon": 8.0,
        "delta": 1e-5,
        "sampling_rate": 0.1,
        "unit": "patient",
    }
    training = {"optimizer": "sgd", "learning_rate": 0.5, "batch_size": 32, "steps": 1}
    plan = make_plan(privacy={"weights": "equal", "differential": differential}, replaced={"training": training})
    x, y = simulated.dataset.features[simulated.own], simulated.dataset.labels[simulated.own]
    path = tmp_path / "rows.npz"
    np.savez(path, x=x, y=y)
    source = SourcePlan(adapter="npz", path=str(path))
    with pytest.raises(ContractViolation, match="the column 'patient' is missing"):
        real_site(plan, name="a", index=0, source=source)
    patients = np.arange(len(y)) // 3
    np.savez(path, x=x, y=y, patient=patients)
    site = real_site(plan, name="a", index=0, source=source)
    assert site.dataset.columns["patient"].tolist() == [str(patient) for patient in patients]
    train, test = set(patients[site.splits.train]), set(patients[site.splits.test])
    assert train
    assert test
    assert not train & test
