"""A site that takes part in no round: whom the study asks for what, and what becomes of it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hansa_client.simulated import divide
from hansa_common.errors import PlanError, UsageError
from hansa_common.plan import StudyPlan, dump_plan, read_plan
from hansa_server.cli import override
from hansa_server.engines.engine import Machine
from hansa_server.left_out import taking_part
from hansa_server.progress import Quiet
from hansa_server.results import Results
from hansa_server.simulation import check, simulate
from hansa_server.store import RunFolder
from hansa_server.trials.coalitions import Coalitions

Make = Callable[..., StudyPlan]


def run(plan: StudyPlan, path: Path, *, baselines: bool = False) -> Results:
    folder = RunFolder.create(path)
    folder.save_plan(plan)
    try:
        return simulate(plan, folder, machine=Machine(engine="inline"), observer=Quiet(), baselines=baselines)
    finally:
        folder.close()


def test_it_trains_in_no_round_and_tests_the_last_model_on_all_its_data(tmp_path: Path, make_plan: Make) -> None:
    rounds = {"count": 2, "deadline_seconds": 60.0}
    plan = override(make_plan(rounds=rounds), leave_out="site-3")
    results = run(plan, tmp_path / "run", baselines=True)
    assert [site.site for site in results.sites] == ["site-1", "site-2", "site-4"]
    for entry in results.rounds:
        assert [site.site for site in entry.sites] == ["site-1", "site-2", "site-4"]
        assert entry.missing == {}
    final, baselines = results.final, results.baselines
    assert final is not None
    assert final.left_out is not None
    assert final.left_out.site == "site-3"
    assert final.left_out.num_examples == len(divide(plan).indices[2])
    assert final.left_out.accuracy is not None
    assert 0.3 < final.left_out.accuracy < 1.0
    assert final.weighted_mean is not None
    assert final.weighted_mean.num_examples == sum(site.examples["test"] for site in results.sites)
    assert baselines is not None
    assert baselines.cross_site is not None
    assert baselines.cross_site.sites == ("site-1", "site-2", "site-4")
    assert RunFolder(tmp_path / "run").load_plan() == plan
    page = (tmp_path / "run" / "report.html").read_text()
    assert "site-3 was left out: it took part in no round" in page
    assert "site-3, left out" in page
    assert "site-3 was left out" in (tmp_path / "run" / "MODEL_CARD.md").read_text().replace("\\", "")
    assert f"2,site-3,left_out,accuracy,{final.left_out.accuracy!r}" in (tmp_path / "run" / "metrics.csv").read_text()


def test_a_site_that_there_is_not_cannot_be_left_out(make_plan: Make) -> None:
    with pytest.raises(UsageError, match="no site 'site-9'") as caught:
        check(make_plan(simulation={"leave_out": "site-9"}))
    assert "site-1, site-2" in caught.value.advice
    with pytest.raises(UsageError, match="only site"):
        taking_part(make_plan(simulation={"leave_out": "a"}), ["a"])
    assert taking_part(make_plan(), ["a", "b"]) == ("a", "b")


def test_contributions_are_not_measured_without_a_site(make_plan: Make) -> None:
    with pytest.raises(UsageError, match="leave_out"):
        Coalitions(make_plan(simulation={"leave_out": "site-3"}), "accuracy")


def test_the_plan_file_keeps_who_is_left_out(tmp_path: Path, make_plan: Make) -> None:
    plan = make_plan(simulation={"leave_out": "site-3"})
    (tmp_path / "plan.toml").write_text(dump_plan(plan))
    assert read_plan(tmp_path / "plan.toml") == plan


NOISE = {"kind": "site_server", "clipping_bound": 1.0, "noise_multiplier": 1.0, "epsilon": 800.0, "delta": 1e-5}


@pytest.mark.parametrize(
    "sections",
    [
        {"privacy": {"weights": "equal", "secure_aggregation": {"cohort": "fixed", "coordinate_range": 0.5}}},
        {"privacy": {"weights": "equal", "differential": NOISE}},
        {"personalisation": {"method": "fedper", "local": ["linear"]}},
    ],
)
def test_a_site_is_left_out_only_where_its_figures_mean_something(make_plan: Make, sections: dict[str, Any]) -> None:
    make_plan(**sections)
    with pytest.raises(PlanError, match=r"simulation\.leave_out"):
        make_plan(**sections, simulation={"leave_out": "site-3"})
