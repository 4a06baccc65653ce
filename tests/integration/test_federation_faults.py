"""A federation under faults: nothing is lost, nothing is counted twice, and the model is that of the run without them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.chaos.cutting_proxy import CuttingProxy, Fault, Weather
from tests.chaos.federation import Federation
from tests.chaos.supervisor import Supervisor

from hansa_common.failpoints import NAMES, VARIABLE
from hansa_common.plan import StudyPlan, dump_plan
from hansa_server.results import Results

SITES = ("site-1", "site-2")
Make = Callable[..., Federation]
BOTH = ("file.before-rename", "journal.append")
ON_SERVER = tuple(name for name in NAMES if not name.startswith("site."))
AT_SITE = tuple(name for name in NAMES if name.startswith("site.") or name in BOTH)


@pytest.fixture
def study(tmp_path: Path, make_plan: Callable[..., StudyPlan]) -> Path:
    plan = make_plan(rounds={"count": 10, "deadline_seconds": 60.0}, replaced={"simulation": None})
    path = tmp_path / "small.toml"
    path.write_text(dump_plan(plan))
    return path


def results(federation: Federation, study: str) -> Results:
    return Results.model_validate_json((federation.run_folder(study) / "metrics.json").read_bytes())


def armed(names: tuple[str, ...], folder: Path, *, first: int) -> str:
    """Each point once, at different times: a process that is started again counts anew."""
    folder.mkdir()
    return ",".join(f"{name}@{first + number % 3}:{folder / name}" for number, name in enumerate(names))


def test_killed_at_every_fail_point_the_study_gives_the_same_model(make_federation: Make, study: Path) -> None:
    federation = make_federation(SITES)
    calm = federation.run(study)
    assert calm.state == "completed", calm.reason
    study_id = federation.propose(study)
    for site in federation.sites.values():
        federation.wait_for((site.folder / "proposals" / f"{study_id}.json").exists, "the proposal")
    marks = (
        federation.path / "marks",
        federation.sites["site-1"].folder / "scratch" / "marks",  # the only place where its worker may write
    )
    federation.server.stop()
    federation.sites["site-1"].agent.stop()
    federation.sites["site-1"].agent.environment[VARIABLE] = armed(AT_SITE, marks[1], first=2)
    environment = {VARIABLE: armed(ON_SERVER, marks[0], first=2)}
    with Supervisor(federation, environment) as supervisor:
        federation.approve(study_id)
        row = federation.wait_ended(study_id)
    assert row.state == "completed", row.reason
    assert sorted(path.name for path in marks[0].iterdir()) == sorted(ON_SERVER)
    assert sorted(path.name for path in marks[1].iterdir()) == sorted(AT_SITE)
    assert len(supervisor.deaths) > 10
    one, other = results(federation, calm.study), results(federation, study_id)
    assert other.model_sha256 == one.model_sha256
    assert [len(found.sites) for found in other.rounds] == [2] * 10
    assert [found.train_loss for found in other.rounds] == [found.train_loss for found in one.rounds]
