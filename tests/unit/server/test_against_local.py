"""The worst site beside its own model, and the sites below it: by which figure, and which way round."""

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from hansa_common.metrics import (
    ClassificationCounts,
    Counts,
    ReconstructionCounts,
    RegressionCounts,
    SurvivalCounts,
    VerdictFigure,
    verdict_figure,
)
from hansa_common.plan import StudyPlan, parse_plan
from hansa_server.cli import summarise
from hansa_server.engines.engine import Machine
from hansa_server.figures import against_local, below_local
from hansa_server.progress import Quiet
from hansa_server.results import Scores
from hansa_server.simulation import simulate
from hansa_server.store import RunFolder

EMPTY: dict[str, Any] = dict.fromkeys(
    ("loss", "accuracy", "balanced_accuracy", "precision", "recall", "f1", "roc_auc", "calibration_error")
)


def scores(figure: VerdictFigure, **values: float | None) -> dict[str, Scores]:
    return {site: Scores(num_examples=20, **(EMPTY | {figure: value})) for site, value in values.items()}


def errors(*, labelled: bool) -> ReconstructionCounts:
    values, anomalies = np.array([0.1, 0.2, 0.9]), np.array([0, 0, 1])
    return ReconstructionCounts.of(values, anomalies, labelled=labelled, histograms=True)


@pytest.mark.parametrize(
    ("counts", "figure"),
    [
        (ClassificationCounts.zero(2), "accuracy"),
        (RegressionCounts(scale=1.0), "rmse"),
        (SurvivalCounts(), "c_index"),
        (errors(labelled=False), "reconstruction_error"),
        (errors(labelled=True), "roc_auc"),
    ],
)
def test_known_anomalies_are_judged_by_how_well_they_are_told(counts: Counts, figure: str) -> None:
    assert verdict_figure(counts) == figure


@pytest.mark.parametrize(
    ("figure", "worst", "difference"),
    [
        ("accuracy", "a", 0.3 - 0.5),
        ("c_index", "a", 0.3 - 0.5),
        ("roc_auc", "a", 0.3 - 0.5),
        ("rmse", "b", 0.9 - 0.7),
        ("reconstruction_error", "b", 0.9 - 0.7),
    ],
)
def test_a_positive_difference_is_a_gain_whichever_way_the_figure_goes(
    figure: VerdictFigure, worst: str, difference: float
) -> None:
    federated, alone = scores(figure, a=0.3, b=0.7, c=0.5), scores(figure, a=0.5, b=0.9, c=0.5)
    found = against_local(federated, alone, figure)
    assert found is not None
    assert (found.site, found.figure) == (worst, figure)
    assert found.difference == pytest.approx(difference)
    assert found.values == (getattr(federated[worst], figure), getattr(alone[worst], figure))
    assert (found.federated_accuracy is None) == (figure != "accuracy")
    assert (found.federated is None) == (figure == "accuracy")
    below = ("a", "b") if figure in ("accuracy", "c_index", "roc_auc") else ()
    assert below_local(federated, alone, figure) == below


def test_of_errors_the_larger_one_is_below() -> None:
    assert below_local(scores("rmse", a=3.0, b=1.0), scores("rmse", a=2.0, b=2.0), "rmse") == ("a",)


def test_what_was_not_measured_is_not_judged() -> None:
    known, unknown = scores("c_index", a=0.6), scores("c_index", a=None)
    assert against_local(known, unknown, "c_index") is None
    assert against_local(unknown, known, "c_index") is None
    assert against_local(known, {}, "c_index") is None
    assert below_local(known, unknown, "c_index") == below_local(unknown, known, "c_index") == ()


def test_a_study_of_numbers_is_judged_and_so_are_its_sites_own_models(tmp_path: Path) -> None:
    """Against the sites' own lines in the same results."""
    rng = np.random.default_rng(3)
    features = rng.normal(size=(120, 3)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=features, y=(features @ np.array([1.0, -2.0, 0.5])).astype(np.float32))
    plan: StudyPlan = parse_plan(
        {
            "name": "numbers",
            "purpose": "A test.",
            "model": {"name": "linear"},
            "data": {"kind": "array", "shape": [3], "target": {"kind": "number", "unit": "cycles"}},
            "training": {"optimizer": "sgd", "learning_rate": 0.05, "batch_size": 8, "epochs": 1},
            "rounds": {"count": 2},
            "personalisation": {"method": "finetune"},
            "simulation": {
                "names": ["Visby", "Riga"],
                "data": {"adapter": "npz", "path": str(tmp_path / "data.npz")},
            },
        }
    )
    folder = RunFolder.create(tmp_path / "run")
    folder.save_plan(plan)
    try:
        results = simulate(plan, folder, machine=Machine(engine="inline"), observer=Quiet(), baselines=True)
    finally:
        folder.close()
    rmse = {
        site.site: [scores.rmse for scores in (site.federated, site.personal, site.local_only) if scores]
        for site in results.sites
    }
    assert results.final is not None
    against, own = results.final.worst_site_against_local, results.final.personal
    assert against is not None
    assert own is not None
    worst = max(rmse, key=lambda site: rmse[site][0] or 0.0)
    assert (against.site, against.figure) == (worst, "rmse")
    assert against.values == (rmse[worst][0], rmse[worst][2])
    assert against.difference == pytest.approx((rmse[worst][2] or 0.0) - (rmse[worst][0] or 0.0))
    assert own.worst_site.site == max(rmse, key=lambda site: rmse[site][1] or 0.0)
    assert own.below_local_only == tuple(site for site, found in rmse.items() if (found[1] or 0.0) > (found[2] or 0.0))
    console = Console(file=io.StringIO(), width=100)
    summarise(console, results, tmp_path / "run")
    assert isinstance(console.file, io.StringIO)
    printed = console.file.getvalue()
    assert re.search(rf"worst site against its own model +[+\u2212][\d.]+ cycles +{worst}; \+ is better", printed)
    assert re.search(r"sites' own models +[\d.]+ cycles +site mean; finetune", printed)
