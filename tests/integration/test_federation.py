"""A federation of real processes over TLS: joins by the README's commands, and runs the study of the simulation."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from tests.chaos.federation import PASSPHRASE, Federation, Site
from tests.chaos.processes import Process, hansa

from hansa_client.split_cli import split
from hansa_common.plan import StudyPlan, dump_plan, read_plan
from hansa_common.privacy_plan import PrivacyPlan, SecureAggregationPlan
from hansa_server.engines.engine import Machine
from hansa_server.progress import Quiet
from hansa_server.simulation import simulate
from hansa_server.store import RunFolder

NAMES = ("site-1", "site-2", "site-3")
Make = Callable[..., Federation]


@pytest.fixture
def study(tmp_path: Path, make_plan: Callable[..., StudyPlan]) -> Path:
    """A study file whose simulated sites are the federation's, and their data as files."""
    simulation = {"sites": 3, "partition": "dirichlet:1.0", "data": {"adapter": "digits"}}
    rounds = {"count": 3, "deadline_seconds": 60.0}
    plan = make_plan(simulation=simulation, rounds=rounds, evaluation={"ensemble": 2})
    path = tmp_path / "small.toml"
    path.write_text(dump_plan(plan))
    split(path, out=tmp_path / "data")
    return path


@pytest.fixture
def data(tmp_path: Path) -> dict[str, str]:
    return {name: f'[data.small]\nadapter = "npz"\npath = "{tmp_path / "data" / name}.npz"\n' for name in NAMES}


def simulated_hash(study: Path, tmp_path: Path) -> str:
    folder = RunFolder.create(tmp_path / "simulated")
    results = simulate(read_plan(study), folder, machine=Machine(workers=2), observer=Quiet())
    folder.close()
    return results.model_sha256


def metrics(federation: Federation, study: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((federation.run_folder(study) / "metrics.json").read_text())
    return found


def test_a_study_gives_the_simulations_bits_and_every_site_its_model(
    make_federation: Make, study: Path, data: dict[str, str], tmp_path: Path
) -> None:
    federation = make_federation(NAMES, data=data)
    row = federation.run(study)
    assert row.state == "completed", row.reason
    found = metrics(federation, row.study)
    assert found["model_sha256"] == simulated_hash(study, tmp_path)
    assert found["engine"] == "federation"
    for site in federation.sites.values():
        model = load_file(site.folder / "models" / row.study / "model.safetensors")
        assert sum(values.size for values in model.values()) == found["parameters"]
        assert "# " in (site.folder / "models" / row.study / "MODEL_CARD.md").read_text()
        assert row.study in site.hansa("models")
        for version in ("000002.safetensors", "000003.safetensors"):
            kept, delivered = (folder / "versions" / version for folder in _folders(federation, site, row.study))
            tensors = load_file(delivered)
            assert all(np.array_equal(values, tensors[name]) for name, values in load_file(kept).items())
        assert "unbroken" not in site.hansa("log")  # that goes to stderr; the entries are on stdout
        assert site.events().count("reply-released") == 1 + 3 + 1 + 1 + (site.name == "site-1")
    _is_the_same_under_masks(federation, study, row.study)


def _folders(federation: Federation, site: Site, study: str) -> tuple[Path, Path]:
    return federation.run_folder(study), site.folder / "models" / study


def _is_the_same_under_masks(federation: Federation, study: Path, open_study: str) -> None:
    """Run the study again with secure aggregation: the model differs by rounding, and no site's figures are told."""
    plan = read_plan(study)
    masks = SecureAggregationPlan(coordinate_range=4.0, cohort="fixed")
    privacy = PrivacyPlan(maximum_examples=2_000, secure_aggregation=masks)
    masked = study.with_name("masked.toml")
    masked.write_text(dump_plan(plan.model_copy(update={"privacy": privacy})))
    row = federation.run(masked)
    assert row.state == "completed", row.reason
    site = federation.sites["site-1"]
    one, other = (load_file(site.folder / "models" / name / "model.safetensors") for name in (open_study, row.study))
    assert max(float(abs(one[name] - other[name]).max()) for name in one) < 1e-6
    found = metrics(federation, row.study)
    assert found["final"]["confusion"] == metrics(federation, open_study)["final"]["confusion"]
    assert found["final"]["worst_site"] is None
    together = [metrics(federation, name)["final"]["ensemble"] for name in (open_study, row.study)]
    assert together[0]["weighted_mean"]["accuracy"] == together[1]["weighted_mean"]["accuracy"]
    assert together[1]["worst_site"] is None
    assert all(entry["accuracy"] is None for result in found["rounds"] for entry in result["sites"])
    assert "the ensemble" in site.hansa("figures")
    assert (site.folder / "masking").stat().st_mode & 0o077 == 0


def missing(federation: Federation, study: str) -> list[dict[str, str]]:
    return [found["missing"] for found in metrics(federation, study)["rounds"]]


@pytest.fixture
def long_study(tmp_path: Path, make_plan: Callable[..., StudyPlan]) -> Path:
    """Rounds that take a moment, and one site is enough."""
    plan = make_plan(
        rounds={"count": 6, "deadline_seconds": 60.0, "quorum": 0.4},
        training={"epochs": 60},
        replaced={"simulation": None},
    )
    path = tmp_path / "long.toml"
    path.write_text(dump_plan(plan))
    return path


def test_a_site_decides_what_runs_at_it(make_federation: Make, long_study: Path) -> None:
    federation = make_federation(NAMES)
    one, two, three = (federation.sites[name] for name in NAMES)
    study = federation.propose(long_study)
    page = federation.wait_for(lambda: _review(one, study), "the proposal")
    for words in ("Who asks", "What leaves", "6 times", "founder's key lies on the coordinator's machine"):
        assert words in page, words
    one.hansa("approve", study)
    two.hansa("approve", study)
    three.hansa("refuse", study)
    federation.wait_for(lambda: ":train-1:" in _tasks(two) or None, "the first round")
    two.hansa("pause")
    federation.wait_for(lambda: "paused" in (two.folder / "journal.jsonl").read_text(), "the refusal")
    assert "paused             yes" in two.hansa("status")
    row = federation.wait_ended(study)
    assert row.state == "completed", row.reason
    assert row.refused == (NAMES[2],)
    assert not [task for task in _tasks(three).split("\n") if study in task and "reply-released" in task]
    gaps = missing(federation, study)
    assert any("paused" in gap.get(NAMES[1], "") for gap in gaps)
    assert all(set(gap) <= {NAMES[1]} for gap in gaps)
    assert NAMES[1] in row.reason
    assert not (two.folder / "models" / study / "model.safetensors").exists()
    two.hansa("resume")
    hansa("server", "resume", study, "--folder", federation.folder)
    assert (two.folder / "models" / study / "model.safetensors").exists()


@pytest.mark.slow
def test_an_approval_that_is_taken_back_in_mid_study_ends_it_at_that_site(
    make_federation: Make, long_study: Path
) -> None:
    federation = make_federation(NAMES)
    one, two, three = (federation.sites[name] for name in NAMES)
    study = federation.propose(long_study)
    federation.approve(study, one, two)
    three.hansa("refuse", study)
    federation.wait_for(lambda: f"{study}:train-1:" in _tasks(two) or None, "the first round")
    two.hansa("refuse", study)
    row = federation.wait_ended(study)
    assert row.state == "completed", row.reason
    assert "not approved" in missing(federation, study)[-1][NAMES[1]]
    answers = [event for event in two.events() if event in ("study-approved", "study-refused")]
    assert answers == ["study-approved", "study-refused"]


def _review(site: Any, study: str) -> str | None:
    return site.hansa("review", study) if (site.folder / "proposals" / f"{study}.json").exists() else None


def _tasks(site: Any) -> str:
    found: str = (site.folder / "journal.jsonl").read_text()
    return found


@pytest.mark.slow
def test_any_flower_app_runs_unmodified_once_each_site_lets_it(make_federation: Make) -> None:
    apps = str(Path(__file__).parent / "apps")
    data = dict.fromkeys(NAMES[:2], '[apps]\nstock = "stock:client"\nfailing = "failing:client"\n')
    federation = make_federation(NAMES[:2], data=data, environment={"PYTHONPATH": apps})
    study = federation.propose("--app", "stock:server,stock:client", "--run-config", "num-server-rounds=2")
    page = federation.wait_for(lambda: _review(federation.sites[NAMES[0]], study), "the proposal")
    assert "WHATEVER THE APP SENDS" in page
    federation.approve(study)
    row = federation.wait_ended(study)
    log = (federation.run_folder(study) / "study.log").read_text()
    assert row.state == "completed", f"{row.reason}\n{log}"
    assert "weights [3.0, 3.0, 3.0]" in log  # two rounds, each adding the mean of 1 and 2
    assert "calls 2.0" in log  # a node's state goes from one round to the next
    assert all(site.events().count("reply-released") >= 2 for site in federation.sites.values())

    failing = federation.propose("--app", "failing:server,failing:client")
    federation.approve(failing)
    assert federation.wait_ended(failing).state == "completed"
    log = (federation.run_folder(failing) / "study.log").read_text()
    assert log.count("reply ") == 2  # each site said that it failed, and none of its data
    assert "patient" not in log


@pytest.mark.parametrize(("spoken", "works"), [pytest.param((1, 2), True, marks=pytest.mark.slow), ((2, 3), False)])
@pytest.mark.slow
def test_a_site_one_protocol_version_behind_works_and_two_behind_is_told(
    make_federation: Make, spoken: tuple[int, ...], works: bool
) -> None:
    federation = make_federation(NAMES[:1])
    site = federation.sites[NAMES[0]]
    federation.server.stop()
    code = (
        "from pathlib import Path; from hansa_server.federation.process import serve; "
        f"serve(Path({str(federation.folder)!r}), {PASSPHRASE!r}, protocols={spoken})"
    )
    newer = Process("-c", code, log=federation.path / "newer.log", program=sys.executable)
    newer.start()
    try:
        if works:
            federation.wait_online(site)
        told = "Update Hansa at the site."
        shown = federation.wait_for(lambda: _status(site, "yes, to" if works else told), "the answer")
        assert (told in shown) != works
    finally:
        newer.close()


def _status(site: Any, words: str) -> str | None:
    found = " ".join(site.hansa("status").split())
    return found if words in found else None
