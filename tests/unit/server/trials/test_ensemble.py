"""The sites' own models as one, from a run's folder or from files that were handed over."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from safetensors.numpy import save_file
from typer.testing import CliRunner

from hansa_client.simulated import divide, site_splits
from hansa_common.errors import StudyFailed, UsageError
from hansa_common.models.assembly import load_model
from hansa_common.plan import StudyPlan, dump_plan
from hansa_server.engines.engine import Machine
from hansa_server.ensemble_cli import ensemble
from hansa_server.progress import Quiet
from hansa_server.results import Results
from hansa_server.simulation import simulate
from hansa_server.store import RunFolder
from hansa_server.trials.ensemble import ask_about, evaluate_together

Make = Callable[..., StudyPlan]
APP = typer.Typer()
APP.command()(ensemble)
ROUNDS = {"count": 2, "deadline_seconds": 60.0}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, StudyPlan, Results]:
    """A run whose output layer stays at each of four sites."""
    from tests.conftest import small_study

    from hansa_common.plan import parse_plan

    plan = parse_plan(
        small_study(
            model={"name": "mlp", "hidden": [8]},
            personalisation={"method": "fedper"},
            replaced={"rounds": ROUNDS},
        )
    )
    path = tmp_path_factory.mktemp("runs") / "run"
    folder = RunFolder.create(path)
    folder.save_plan(plan)
    results = simulate(plan, folder, machine=Machine(engine="inline"), observer=Quiet())
    folder.close()
    return path, plan, results


def call(*arguments: object) -> Any:
    return CliRunner().invoke(APP, [str(argument) for argument in arguments], env={"COLUMNS": "200"})


def test_its_figures_are_those_of_the_mean_of_the_sites_models(made: tuple[Path, StudyPlan, Results]) -> None:
    """Oracle: each saved model as a network, probabilities averaged in NumPy, answers counted by hand."""
    from safetensors.torch import load_file

    path, plan, results = made
    found = evaluate_together(ask_about(path, [], None))
    assert len(found.members) == 4
    networks = [load_model(plan.model, plan.data, load_file(member), folder=None).eval() for member in found.members]
    data, right, count = divide(plan).dataset, 0, 0
    for place, name in enumerate(sorted(found.sites)):
        test = site_splits(plan, place).test
        features = torch.from_numpy(data.features[test].astype(np.float32))
        with torch.inference_mode():
            answers = [network(features).softmax(1).numpy().astype(np.float64) for network in networks]
        hits = int((np.mean(answers, axis=0).argmax(1) == data.labels[test]).sum())
        assert found.sites[name].accuracy == pytest.approx(hits / len(test))
        right, count = right + hits, count + len(test)
    assert found.weighted_mean.accuracy == pytest.approx(right / count)
    assert found.weighted_mean.num_examples == count
    assert found.personal == {site.site: site.personal for site in results.sites}
    assert found.worst_site.accuracy == min(scores.accuracy or 0.0 for scores in found.sites.values())


def test_the_command_prints_them_beside_each_sites_own(made: tuple[Path, StudyPlan, Results]) -> None:
    path, plan, _results = made
    said = call(path)
    assert said.exit_code == 0, said.output
    assert "4 models as one, accuracy on the sites' test splits" in said.output
    assert "own model" in said.output
    printed = json.loads(call(path, "--json").output)
    assert printed["weighted_mean"]["num_examples"] == sum(len(site_splits(plan, site).test) for site in range(4))


def test_files_that_were_handed_over_need_no_run(made: tuple[Path, StudyPlan, Results], tmp_path: Path) -> None:
    path, plan, _results = made
    study = tmp_path / "study.toml"
    study.write_text(dump_plan(plan))
    members = [
        shutil.copy(path / "sites" / str(number) / "personal.safetensors", tmp_path / f"{number}.safetensors")
        for number in (1, 2)
    ]
    found = evaluate_together(ask_about(study, [Path(member) for member in members], None))
    assert len(found.members) == 2
    assert found.common == {}
    assert found.personal == {}
    versions = tmp_path / "versions"
    versions.mkdir()
    for member in members:
        shutil.move(member, versions)
    assert evaluate_together(ask_about(study, [versions], None)).sites == found.sites


def test_what_is_no_model_of_the_plan_is_named(made: tuple[Path, StudyPlan, Results], tmp_path: Path) -> None:
    path, plan, _results = made
    with pytest.raises(UsageError, match="1 models: an ensemble has 2 to 100"):
        ask_about(path, [path / "sites" / "1" / "personal.safetensors"], None)
    study = tmp_path / "study.toml"
    study.write_text(dump_plan(plan))
    with pytest.raises(UsageError, match="0 models"):
        ask_about(study, [], None)
    with pytest.raises(UsageError, match="holds no model"):
        ask_about(path, [tmp_path], None)
    own = path / "sites" / "1" / "personal.safetensors"
    common = path / "model.safetensors"  # without the layers that stay
    with pytest.raises(UsageError, match=r"model.safetensors holds another model") as caught:
        evaluate_together(ask_about(path, [own, common], None))
    assert "personal.safetensors" in caught.value.advice
    (tmp_path / "broken.safetensors").write_bytes(b"nothing")
    with pytest.raises(UsageError, match="cannot be read as a model"):
        evaluate_together(ask_about(path, [own, tmp_path / "broken.safetensors"], None))
    with pytest.raises(StudyFailed, match="not finite"):
        evaluate_together(ask_about(path, [own, _spoilt(own, tmp_path)], None))


def _spoilt(own: Path, folder: Path) -> Path:
    from safetensors.numpy import load_file

    tensors = {name: np.full_like(values, np.nan) for name, values in load_file(own).items()}
    save_file(tensors, folder / "spoilt.safetensors")
    return folder / "spoilt.safetensors"
