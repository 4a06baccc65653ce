"""``hansa audit privacy`` from the study file to the page."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hansa_common.errors import UsageError
from hansa_common.plan import StudyPlan, dump_plan
from hansa_server.audit_cli import app

pytestmark = pytest.mark.slow


def test_it_writes_the_page_and_the_figures(make_plan: Callable[..., StudyPlan], tmp_path: Path) -> None:
    images = {"kind": "image", "channels": 1, "height": 8, "width": 8, "classes": list("0123456789")}
    training = {"optimizer": "sgd", "learning_rate": 0.5, "batch_size": 64, "steps": 2}
    plan = make_plan(model={"name": "mlp", "hidden": [512]}, replaced={"data": images, "training": training})
    study = tmp_path / "small.toml"
    study.write_text(dump_plan(plan))
    out = tmp_path / "audit"
    result = CliRunner().invoke(app, ["privacy", str(study), "--out", str(out), "--rounds", "1"])
    assert result.exit_code == 0, result.output
    assert "The plan asks for no protection" in result.output
    assert "without protection: reconstruction: 100%" in result.output
    figures = json.loads((out / "audit.json").read_text())
    assert figures["plan_digest"] == plan.digest()
    assert [entry["exact"] for entry in figures["unprotected"]["reconstructions"]][:2] == [4, 16]
    page = (out / "audit.html").read_text()
    assert page.count("data:image/png;base64,") >= 8  # four originals, and what came back without protection
    assert (out / "audit.html").stat().st_mode & 0o077 == 0  # it holds training images


def test_a_folder_with_something_in_it_is_refused_before_anything_runs(small_plan: StudyPlan, tmp_path: Path) -> None:
    study = tmp_path / "small.toml"
    study.write_text(dump_plan(small_plan))
    result = CliRunner().invoke(app, ["privacy", str(study), "--out", str(tmp_path)])
    assert isinstance(result.exception, UsageError)
    assert result.output == ""
