"""The commands of ``hansa study`` that run several studies, from their options to their files."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from hansa_common.errors import IdentityError, UsageError
from hansa_common.organisation import create_organisation
from hansa_common.plan import StudyPlan, dump_plan
from hansa_server import trials_cli
from hansa_server.results import Results
from hansa_server.store import RunFolder
from hansa_server.trials import contribution, runs
from hansa_server.trials.coalitions import Coalition, Worth
from hansa_server.trials.contribution import SignedReceipt
from hansa_server.trials.table import Trials

APP = typer.Typer()
for command in (trials_cli.compare, trials_cli.sweep, trials_cli.curve, trials_cli.contribution, trials_cli.receipt):
    APP.command()(command)


def call(*arguments: object) -> Any:
    return CliRunner().invoke(APP, [str(argument) for argument in arguments], env={"COLUMNS": "200"})


@pytest.fixture
def study(tmp_path: Path, make_plan: Callable[..., StudyPlan]) -> Callable[..., Path]:
    def write(name: str = "a", **changes: Any) -> Path:
        path = tmp_path / f"{name}.toml"
        path.write_text(dump_plan(make_plan(**changes)))
        return path

    return write


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[StudyPlan]:
    """Simulations are not run; their plans are noted, and each reaches what its learning rate says."""
    plans: list[StudyPlan] = []

    def simulate(plan: StudyPlan, folder: RunFolder, **_options: Any) -> Results:
        plans.append(plan)
        found = results(plan)
        folder.write("metrics.json", found.model_dump_json())
        return found

    monkeypatch.setattr(runs, "simulate", simulate)
    monkeypatch.setattr(runs, "check", lambda _plan: ("site-1",))
    return plans


def results(plan: StudyPlan) -> Results:
    values = json.loads(RESULTS)
    share = plan.simulation.fraction if plan.simulation else 1.0
    accuracy = 0.5 + 0.1 * plan.training.learning_rate + 0.1 * share + 0.001 * plan.seed
    for name in ("weighted_mean", "site_mean"):
        values["final"][name]["accuracy"] = accuracy
    values["final"]["validation"]["weighted_mean_accuracy"] = accuracy
    return Results.model_validate_json(json.dumps(values | {"seed": plan.seed}))


@pytest.fixture(autouse=True)
def _no_organisation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HANSA_ORG", raising=False)


SCORES = dict.fromkeys(
    ("loss", "accuracy", "balanced_accuracy", "precision", "recall", "f1", "roc_auc", "calibration_error")
) | {"num_examples": 10}
SUMMARY = dict.fromkeys(
    ("weighted_mean_accuracy", "site_mean_accuracy", "worst_site_accuracy", "worst_site", "weighted_mean_loss")
)
RESULTS = json.dumps(
    {
        "run": "run",
        "study": "small",
        "purpose": "A test.",
        "plan_digest": "ab" * 32,
        "status": "completed",
        "reason": "",
        "engine": "inline",
        "seed": 7,
        "model": "logistic",
        "parameters": 650,
        "strategy": "fedavg",
        "partition": "iid",
        "data_origin": "digits",
        "classes": ["a", "b"],
        "rounds_planned": 3,
        "started_at": "2026-11-25T12:00:00+00:00",
        "sites": [],
        "rounds": [],
        "final": {
            "weighted_mean": SCORES,
            "site_mean": SCORES,
            "worst_site": SCORES | {"site": "a", "accuracy": 0.4},
            "worst_site_against_local": None,
            "confusion": [],
            "coordinator": None,
            "validation": SUMMARY,
        },
        "baselines": None,
        "timing": dict.fromkeys(
            (
                "total_seconds",
                "setup_seconds",
                "rounds_seconds",
                "closing_seconds",
                "baselines_seconds",
                "sites_training_seconds",
                "sites_evaluation_seconds",
            ),
            1.0,
        ),
        "bytes": {"up": 1, "down": 1},
        "model_sha256": "",
        "environment": {},
    }
)


def test_compare_runs_each_plan_with_each_seed_and_writes_table_and_page(
    study: Callable[..., Path], ran: list[StudyPlan], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    plans = (study("a"), study("b", training={"learning_rate": 0.9}))
    result = call("compare", *plans, "--seeds", "1,2", "--out", out)
    assert result.exception is None, result.output
    assert [(plan.seed, plan.training.learning_rate) for plan in ran] == [(1, 0.5), (1, 0.9), (2, 0.5), (2, 0.9)]
    trials = Trials.model_validate_json((out / "compare.json").read_text())
    assert [row.name for row in trials.rows] == ["a", "b"]
    assert trials.rows[1].gain is not None
    assert trials.rows[1].gain.mean == pytest.approx(0.04)
    assert "+4.0" in result.output
    assert "Plans compared" in (out / "compare.html").read_text()
    again = call("compare", *plans, "--seeds", "1,2,3", "--out", out)
    assert "(from before)" in again.output
    assert [plan.seed for plan in ran[4:]] == [3, 3]


def test_plans_that_cannot_be_compared_are_refused_before_anything_runs(
    study: Callable[..., Path], ran: list[StudyPlan]
) -> None:
    a, other_seed, other_split = study("a"), study("b", seed=8), study("c", simulation={"partition": "iid"})
    for arguments, says in (
        ([a], "One plan cannot be compared"),
        ([a, other_seed], "different seeds"),
        ([a, other_split, "--seeds", "1"], "differ in"),
        ([a, a], "named twice"),
        ([a, study("d"), "--seeds", "1,1"], "seed is there twice"),
        ([a, study("d"), "--seeds", "x"], "--seeds: found 'x'"),
    ):
        result = call("compare", *arguments)
        assert isinstance(result.exception, UsageError)
        assert says in str(result.exception)
    assert ran == []


def test_sweep_and_curve_vary_what_they_say(study: Callable[..., Path], ran: list[StudyPlan], tmp_path: Path) -> None:
    result = call("sweep", study(), "--learning-rate", "0.1,0.2", "--epochs", "1,2", "--out", tmp_path / "s")
    assert result.exception is None, result.output
    assert [(p.training.learning_rate, p.training.epochs) for p in ran] == [(0.1, 1), (0.1, 2), (0.2, 1), (0.2, 2)]
    ran.clear()
    result = call("curve", study(), "--fractions", "1,.5", "--out", tmp_path / "c")
    assert result.exception is None, result.output
    assert [p.simulation.fraction for p in ran if p.simulation] == [0.5, 1.0]
    assert "One seed says nothing" in result.output


class Fake:
    names = ("a", "b", "c")

    def __init__(self, plan: StudyPlan, _figure: str) -> None:
        self.plan = plan

    def worth(self, coalition: Coalition) -> Worth:
        return Worth(value=0.1 + 0.2 * len(coalition), parameters=62)


def test_a_contribution_is_signed_and_its_receipt_can_be_checked(
    study: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contribution, "Coalitions", Fake)
    monkeypatch.setenv("HANSA_ORG_PASSPHRASE", "a long passphrase")
    folder = create_organisation(tmp_path / "org", "Hospital", b"a long passphrase")
    out = tmp_path / "out"
    result = call("contribution", study(), "--out", out, "--organisation", tmp_path / "org")
    assert result.exception is None, result.output
    assert "+20.0" in result.output
    assert "All sites: 70.0%, untrained: 10.0%" in result.output
    signed = SignedReceipt.model_validate_json((out / "receipt.json").read_text())
    assert signed.organisation == folder.organisation
    held = call("receipt", out / "receipt.json", "--key", folder.organisation.key)
    assert held.exception is None, held.output
    assert "signed by Hospital" in held.output
    other = call("receipt", out / "receipt.json", "--key", "00" * 32)
    assert isinstance(other.exception, IdentityError)
    unsigned = call("contribution", study(), "--out", out, "--method", "leave-one-out")
    assert unsigned.exception is None, unsigned.output
    assert "unsigned" in call("receipt", out / "receipt.json").output
    assert isinstance(call("receipt", out / "receipt.json", "--key", "00" * 32).exception, IdentityError)


def test_masked_updates_are_not_measured(study: Callable[..., Path]) -> None:
    masks = {"maximum_examples": 1_000, "secure_aggregation": {"coordinate_range": 1.0, "cohort": "fixed"}}
    result = call("contribution", study(privacy=masks))
    assert isinstance(result.exception, UsageError)
    assert "masks the sites' updates" in str(result.exception)
