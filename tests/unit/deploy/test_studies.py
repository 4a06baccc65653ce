"""Shipped studies whose data are public files: prepared, they fulfil their contracts and have the published sizes."""

import gzip
import runpy
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from benchmarks import heart

from hansa_client.simulated import divide, site_splits
from hansa_common.plan import StudyPlan, read_plan
from hansa_server.engines.engine import Machine
from hansa_server.progress import Quiet
from hansa_server.simulation import simulate
from hansa_server.store import RunFolder
from hansa_server.trials.variants import Variant, require_one_split

REPOSITORY = Path(__file__).parents[3]


def prepared(study: str, data: Path, folder: Path, prepare: str) -> StudyPlan:
    """Return the plan of a study with the data that the script makes."""
    runpy.run_path(str(REPOSITORY / "scripts/prepare_studies.py"))[prepare](data, folder)
    plan = read_plan(REPOSITORY / f"deploy/studies/{study}.toml")
    assert plan.simulation is not None
    source = plan.simulation.data.model_copy(update={"path": str(folder / str(plan.simulation.data.path))})
    return plan.model_copy(update={"simulation": plan.simulation.model_copy(update={"data": source})})


def sizes(plan: StudyPlan) -> dict[str, tuple[int, int, int]]:
    splits = {name: site_splits(plan, index) for index, name in enumerate(divide(plan).names)}
    return {name: (len(one.train), len(one.validation), len(one.test)) for name, one in splits.items()}


@pytest.mark.needs_data
def test_fed_heart_disease_has_the_published_sizes(test_data: Path, tmp_path: Path) -> None:
    plan = prepared("heart-disease", test_data / "heart_disease", tmp_path, "heart_disease")
    assert sizes(plan) == {
        "Cleveland": (199, 0, 104),
        "Hungary": (172, 0, 89),
        "Long Beach": (85, 0, 45),
        "Switzerland": (30, 0, 16),
    }


@pytest.mark.needs_data
def test_fed_tcga_brca_has_the_published_sizes(test_data: Path, tmp_path: Path) -> None:
    plan = prepared("tcga-brca", test_data / "fed_tcga_brca", tmp_path, "tcga_brca")
    published = [(248, 63), (156, 40), (164, 42), (129, 33), (129, 33), (40, 11)]
    assert sizes(plan) == {f"region-{n}": (train, 0, test) for n, (train, test) in enumerate(published)}


@pytest.mark.slow
@pytest.mark.needs_data
def test_the_exact_fit_of_fed_tcga_brca_is_compared_on_the_published_split_and_reaches_its_figure(
    test_data: Path, tmp_path: Path
) -> None:
    data = test_data / "fed_tcga_brca"
    plan = prepared("tcga-brca-exact", data, tmp_path, "tcga_brca")
    published = prepared("tcga-brca", data, tmp_path, "tcga_brca")
    require_one_split([Variant(name="published", plan=published), Variant(name="exact", plan=plan)])
    folder = RunFolder.create(tmp_path / "run")
    results = simulate(plan, folder, machine=Machine(engine="inline"), observer=Quiet())
    folder.close()
    assert results.final is not None
    assert results.final.weighted_mean is not None
    assert results.final.weighted_mean.c_index == pytest.approx(0.837, abs=5e-4)  # within regions


@pytest.mark.slow
@pytest.mark.needs_data
def test_a_smear_is_in_one_split_wherever_its_cells_are(test_data: Path, tmp_path: Path) -> None:
    plan = prepared("blood-cells", test_data / "bccd_bloodcells", tmp_path, "blood_cells")
    smears = divide(plan).dataset.columns["image_id"]
    found: dict[str, set[int]] = {"train": set(), "validation": set(), "test": set()}
    for index in range(4):
        splits = site_splits(plan, index)
        for name, smeared in found.items():
            smeared |= set(smears[getattr(splits, name)].tolist())
    assert {name: len(smeared) for name, smeared in found.items()} == {"train": 260, "validation": 38, "test": 66}
    assert not any(one & other for one, other in combinations(found.values(), 2))


@pytest.mark.needs_data
def test_each_role_learns_from_what_it_says_first(test_data: Path, tmp_path: Path) -> None:
    plan = prepared("shakespeare", test_data / "tinyshakespeare", tmp_path, "shakespeare")
    found, dataset = sizes(plan), divide(plan).dataset
    assert len(found) == 36
    assert sum(train for train, _validation, _test in found.values()) == 158_988
    assert all(0.7 < train / (train + validation + test) <= 0.81 for train, validation, test in found.values())
    assert not (dataset.features == 1).any()  # no character is unknown
    assert len(set(dataset.labels.tolist())) > 60


@pytest.mark.slow
@pytest.mark.needs_data
def test_fleets_have_the_windows_and_the_test_engines_that_nasa_asks_for(test_data: Path, tmp_path: Path) -> None:
    plan = prepared("cmapss-rul", test_data / "cmapss", tmp_path, "cmapss")
    assert sizes(plan) == {
        "FD001": (3264, 322, 100),
        "FD002": (8404, 934, 259),
        "FD003": (4014, 392, 100),
        "FD004": (9930, 971, 248),
    }
    dataset, last = divide(plan).dataset, site_splits(plan, 0).test
    with gzip.open(test_data / "cmapss" / "RUL_FD001.txt.gz", "rt") as lines:
        lives = np.minimum(np.loadtxt(lines), 125.0)
    assert dataset.targets is not None
    assert dataset.targets[last].tolist() == lives.tolist()
    with gzip.open(test_data / "cmapss" / "test_FD001.txt.gz", "rt") as lines:
        readings = np.loadtxt(lines, dtype=np.float32)
    for engine, window in zip(range(1, 101), dataset.features[last], strict=True):
        assert np.array_equal(window, readings[readings[:, 0] == engine][-30:, 2:])


@pytest.mark.needs_data
def test_fed_heart_disease_gives_the_published_figures_from_the_published_start(
    test_data: Path, tmp_path: Path
) -> None:
    """Right at the hospitals and together, as FLamby's loop with torch's own modules has it for seed 42.

    The means of seeds 42 to 46 are in its published table, which ``benchmarks.heart`` prints beside ours.
    """
    prepared("heart-disease", test_data / "heart_disease", tmp_path, "heart_disease")
    sites, pooled = heart.published_start(tmp_path, heart.METHODS["FedAvg"], 42)
    right = {"Cleveland": 79 / 104, "Hungary": 62 / 89, "Long Beach": 28 / 45, "Switzerland": 11 / 16}
    assert sites == pytest.approx(right)
    assert pooled == pytest.approx(191 / 254)
