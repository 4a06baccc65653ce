"""Studies whose last model is explained, between processes: in the open, under masks, at real sites."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.chaos.federation import Federation

from hansa_common.plan import StudyPlan, dump_plan
from hansa_server.engines.engine import Machine
from hansa_server.progress import Quiet
from hansa_server.results import Results
from hansa_server.simulation import simulate
from hansa_server.store import RunFolder

Make = Callable[..., StudyPlan]
EXPLAIN: dict[str, Any] = {"explain": {"method": "integrated_gradients", "minimum_examples": 3}}
MASKS: dict[str, Any] = {
    "maximum_examples": 2_000,
    "secure_aggregation": {"coordinate_range": 4.0, "cohort": "changing"},
}


def run(plan: StudyPlan, folder: Path) -> Results:
    run_folder = RunFolder.create(folder)
    run_folder.save_plan(plan)
    try:
        return simulate(plan, run_folder, machine=Machine(engine="local", workers=2), observer=Quiet())
    finally:
        run_folder.close()


@pytest.mark.slow
def test_under_masks_the_explanation_is_that_of_the_open_study(tmp_path: Path, make_plan: Make) -> None:
    opened = run(make_plan(evaluation=EXPLAIN), tmp_path / "open").explanation
    masked = run(make_plan(evaluation=EXPLAIN, privacy=MASKS), tmp_path / "masked").explanation
    assert opened is not None
    assert masked is not None
    assert opened.unexplained == masked.unexplained == {}
    assert opened.explained == masked.explained
    assert sum(opened.explained) > 200
    for one, other in zip(opened.views[0].importance, masked.views[0].importance, strict=True):
        np.testing.assert_allclose(np.array(other), np.array(one), atol=1e-4)  # the models differ by rounding
    sites = sorted(path.name for path in (tmp_path / "masked" / "explanations").iterdir())
    assert sites == ["001 site-1", "002 site-2", "003 site-3", "004 site-4"]


@pytest.mark.slow
def test_a_picture_is_in_the_report_where_the_plan_allows_it(tmp_path: Path, make_plan: Make) -> None:
    images = {"kind": "image", "channels": 1, "height": 28, "width": 28, "classes": list("0123456789")}
    explain = {"method": "grad_cam", "kept_examples": 2, "show_examples": True, "examples": 40, "minimum_examples": 2}
    plan = make_plan(
        replaced={"data": images, "model": {"name": "cnn", "filters": [4, 4, 4], "dense": 8}},
        simulation={"data": {"adapter": "mnist5k"}, "partition": "iid"},
        rounds={"count": 1},
        evaluation={"explain": explain},
    )
    results = run(plan, tmp_path / "run")
    assert results.explanation is not None
    assert results.explanation.views[0].rows == 16
    page = (tmp_path / "run" / "report.html").read_text()
    assert len(re.findall(r'<img src="data:image/png;base64,', page)) == 16  # two for each of two at four sites


@pytest.mark.slow
def test_a_real_site_keeps_its_examples_beside_its_model(
    tmp_path: Path, make_federation: Callable[..., Federation], make_plan: Make
) -> None:
    plan = make_plan(evaluation=EXPLAIN, rounds={"count": 1, "deadline_seconds": 60.0}, replaced={"simulation": None})
    path = tmp_path / "small.toml"
    path.write_text(dump_plan(plan))
    federation = make_federation(("Bergen", "Visby"))
    study = federation.propose(path)
    for site in federation.sites.values():
        federation.wait_for((site.folder / "proposals" / f"{study}.json").exists, "the proposal")
    federation.approve(study)
    for site in federation.sites.values():
        model = site.folder / "models" / study
        federation.wait_for((model / "MODEL_CARD.md").exists, "the model")
        rows = (model / "explanations" / "examples.csv").read_text().splitlines()
        assert len(rows) == 9
        assert "What it looks at" in (model / "MODEL_CARD.md").read_text()
        assert not (site.folder / "scratch" / "explanations" / plan.digest()).exists()
