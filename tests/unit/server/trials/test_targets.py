"""Runs of studies that learn no classes, side by side: each by its own figure, in its own direction."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from tests.unit.server.report.page_checks import assert_accessible

from hansa_common.plan import StudyPlan
from hansa_server.results import Results, SiteResult
from hansa_server.trials.page import render, sentences, terminal_tables
from hansa_server.trials.runs import Run
from hansa_server.trials.table import Trials, figure_of, tabulate
from hansa_server.trials.variants import Variant

Make = Callable[..., Any]
SURVIVAL = {"kind": "survival", "time": "days", "event": "seen"}
CASES = [
    # target, model, figure on tests, figure on validation, of the better run, of the worse one
    ({"kind": "number", "unit": "cycles"}, "linear", "rmse", "rmse", 12.5, 14.0),
    (SURVIVAL, "cox", "c_index", "c_index", 0.81, 0.75),
    ({"kind": "reconstruction"}, "vae", "reconstruction_error", "reconstruction_error", 0.02, 0.05),
    ({"kind": "reconstruction", "anomaly": "bad"}, "vae", "roc_auc", "reconstruction_error", 0.9, 0.8),
]


def plan_for(make_plan: Make, target: dict[str, Any], model: str) -> StudyPlan:
    values = make_plan().model_dump(exclude_none=True)
    values["model"] = {"name": model}
    values["data"] = {"kind": "array", "shape": [4], "target": target}
    found: StudyPlan = StudyPlan.model_validate_json(json.dumps(values))
    return found


def results_of(make: Make, figure: str, validation: str, value: float, *, known: float) -> Results:
    """Return a run whose sites ``a`` and ``b`` reach ``value`` and ``value`` plus .01."""
    results: Results = make(None, worst=("a", 0.0))
    final = results.final
    assert final is not None
    scores = make(0.5).final.weighted_mean.model_copy(update={"accuracy": None, figure: value})
    sites = tuple(
        SiteResult(
            site=site,
            examples={},
            class_counts=(),
            federated=scores.model_copy(update={figure: value + step}),
            rounds_contributed=3,
        )
        for site, step in (("a", 0.0), ("b", 0.01))
    )
    summary = final.validation.model_copy(
        update={"figure": validation, "weighted_mean": known, "weighted_mean_accuracy": None}
    )
    changed = final.model_copy(update={"weighted_mean": scores, "site_mean": scores, "validation": summary})
    unit = "cycles" if figure == "rmse" else ""
    return results.model_copy(update={"final": changed, "sites": sites, "unit": unit})


@pytest.mark.parametrize(("target", "model", "figure", "validation", "better", "worse"), CASES)
def test_each_target_is_compared_by_its_own_figure_in_its_own_direction(
    make_plan: Make,
    make_run_results: Make,
    tmp_path: Path,
    target: dict[str, Any],
    model: str,
    figure: str,
    validation: str,
    better: float,
    worse: float,
) -> None:
    plan = plan_for(make_plan, target, model)
    assert figure_of(plan) == figure
    is_error = figure in ("rmse", "reconstruction_error")
    good, bad = (0.1, 0.2) if validation in ("rmse", "reconstruction_error") else (0.9, 0.8)
    variants = [Variant(name="first", plan=plan), Variant(name="second", plan=plan)]
    values = {"first": ((worse, bad), (worse, bad)), "second": ((better, good), ((better + worse) / 2, good))}
    runs = [
        Run(
            variant=name,
            seed=seed,
            folder=tmp_path / name,
            results=results_of(
                make_run_results, figure, validation, values[name][seed - 1][0], known=good if name == "second" else bad
            ),
            is_new=True,
        )
        for seed in (1, 2)
        for name in ("first", "second")
    ]
    trials = tabulate("compare", variants, runs, tmp_path)
    first, second = trials.rows
    assert (trials.figure, trials.validation_figure, trials.best) == (figure, validation, "second")
    assert second.gain is not None
    assert second.gain.mean == pytest.approx(0.75 * abs(better - worse))
    assert (second.worst_seed, second.worst_seed_value) == (2, (better + worse) / 2)
    assert first.worst_site == ("b" if is_error else "a")
    assert second.worst_site_value == pytest.approx((better + worse) / 2 + (0.01 if is_error else 0.0))
    assert Trials.model_validate_json(trials.model_dump_json()) == trials
    page, said = render(trials), " ".join(sentences(trials))
    assert_accessible(page)
    console = Console(width=120, record=True, quiet=True)
    with console.capture() as captured:
        console.quiet = False
        console.print(terminal_tables(trials)[0])
    name = {"rmse": "RMSE", "c_index": "C-index", "roc_auc": "ROC AUC"}.get(figure, "reconstruction error")
    assert name.lower() in page.lower()
    assert "ccuracy" not in page + said + captured.get()
    assert said.startswith("Lowest" if validation in ("rmse", "reconstruction_error") else "Highest")
    assert ("less is better" in page) == is_error
    assert ("cycles" in said) == (figure == "rmse")
