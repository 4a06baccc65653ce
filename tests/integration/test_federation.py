"""A federation of real processes over TLS: joins by the commands of the README, and runs the study of the simulation."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file
from tests.chaos.federation import Federation, Site
from tests.chaos.processes import hansa

from hansa_client.simulated import divide
from hansa_client.split_cli import split
from hansa_common.plan import StudyPlan, dump_plan
from hansa_server.simulation import simulate
from hansa_server.engines.engine import Machine
from hansa_server.progress import Quiet
from hansa_server.store import RunFolder

NAMES = ("site-1", "site-2", "site-3")
Make = Callable[..., Federation]


@pytest.fixture
def study(tmp_path: Path, make_plan: Callable[..., StudyPlan]) -> Path:
    """A study file whose simulated sites are the federation's, and their data as files."""
    simulation = {"sites": 3, "partition": "dirichlet:1.0", "data": {"adapter": "digits"}}
    plan = make_plan(simulation=simulation, rounds={"count": 3, "deadline_seconds": 60.0})
    path = tmp_path / "small.toml"
    path.write_text(dump_plan(plan))
    split(path, out=tmp_path / "data")
    return path


@pytest.fixture
def data(tmp_path: Path) -> dict[str, str]:
    return {name: f'[data.small]\nadapter = "npz"\npath = "{tmp_path / "data" / name}.npz"\n' for name in NAMES}


def simulated_hash(study: Path, tmp_path: Path) -> str:
    from hansa_common.plan import read_plan

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
        assert "unbroken" not in site.hansa("log")  # that goes to stderr; the entries are on stdout
        assert site.events().count("reply-released") == 1 + 3 + 1 + 1 + (site.name == "site-1")
