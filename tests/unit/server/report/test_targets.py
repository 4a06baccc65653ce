"""What the report, the card and the table show where no classes were learned, and where decisions were weighed."""

import csv
import io
import re
from collections.abc import Callable
from typing import Any

import pytest

from hansa_common.plan import StudyPlan, parse_plan
from hansa_server.decision_results import Decisions, DecisionScores, FairnessResult, GroupScores
from hansa_server.report import metrics_csv, model_card, render
from hansa_server.report.narrative import headlines
from hansa_server.results import (
    Results,
    Scores,
    Summary,
    WorstAgainstLocal,
)

Make = Callable[..., Results]
MAIN = {"number": "rmse", "survival": "c_index", "reconstruction": "reconstruction_error"}
TARGETS: dict[str, dict[str, Any]] = {
    "number": {"kind": "number", "unit": "cycles", "scale": 50.0},
    "survival": {"kind": "survival", "time": "t", "event": "e"},
    "reconstruction": {"kind": "reconstruction", "anomaly": "bad"},
}
_NAMES = {"number": "RMSE", "survival": "C-index", "reconstruction": "reconstruction error"}
_OTHER = {
    "loss": 0.5,
    "accuracy": None,
    "balanced_accuracy": None,
    "precision": None,
    "recall": None,
    "f1": None,
    "roc_auc": None,
    "calibration_error": None,
}


def scores(target: str, value: float) -> Scores:
    main = MAIN[target]
    return Scores(num_examples=40, **_OTHER, **{main: value}, intervals={main: (value - 0.1, value + 0.1)})  # type: ignore[arg-type]


def learned(results: Results, target: str) -> Results:
    """Return results as if something else had been learned: every figure of accuracy is gone."""
    value = 0.731
    summary = Summary(
        figure=MAIN[target],  # type: ignore[arg-type]
        weighted_mean=value,
        site_mean=0.7,
        worst=0.6,
        worst_site=results.sites[0].site,
        weighted_mean_accuracy=None,
        site_mean_accuracy=None,
        worst_site_accuracy=None,
        weighted_mean_loss=0.4,
    )
    sites = tuple(
        site.model_copy(update={"federated": scores(target, value), "confusion": None, "class_counts": (7,)})
        for site in results.sites
    )
    rounds = tuple(
        entry.model_copy(
            update={
                "incoming": summary,
                "sites": tuple(site.model_copy(update={"accuracy": None, "value": 0.5}) for site in entry.sites),
            }
        )
        for entry in results.rounds
    )
    final = results.final
    assert final is not None
    assert final.worst_site is not None
    worst = final.worst_site.model_copy(update=scores(target, 0.6).model_dump())
    changes: dict[str, Any] = {
        "weighted_mean": scores(target, value),
        "site_mean": scores(target, 0.7),
        "worst_site": worst,
        "confusion": (),
        "validation": summary,
    }
    return results.model_copy(
        update={
            "target": target,
            "unit": TARGETS[target].get("unit", ""),
            "classes": ("examples",),
            "sites": sites,
            "rounds": rounds,
            "final": final.model_copy(update=changes),
        }
    )


def plan_of(target: str) -> StudyPlan:
    return parse_plan(
        {
            "name": "test",
            "purpose": "A test.",
            "model": {"name": "mlp"},
            "data": {"kind": "array", "shape": [3], "target": TARGETS[target]},
            "training": {"epochs": 1},
            "rounds": {"count": 3},
        }
    )


@pytest.mark.parametrize("target", TARGETS)
def test_there_is_no_accuracy_where_no_classes_were_learned(make_results: Make, target: str) -> None:
    results = learned(make_results(rounds=3), target)
    page, card, table = render(results, ""), model_card(results, plan_of(target)), metrics_csv(results)
    body = re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL)
    for text in (body, card, table):
        assert "ccuracy" not in text
        assert "onfus" not in text
        assert "None" not in text
    assert _NAMES[target] in body
    assert _NAMES[target] in card
    rows = {tuple(row[:4]): row[4] for row in csv.reader(io.StringIO(table))}
    assert float(rows["3", "", "test", f"weighted_mean_{MAIN[target]}"]) == 0.731
    assert float(rows["3", "", "test", f"weighted_mean_{MAIN[target]}_low"]) == pytest.approx(0.631)
    assert float(rows["1", "", "validation", "worst"]) == 0.6
    assert ["accuracy" in name for *_, name in rows].count(True) == 0


def test_a_number_is_written_with_its_unit_and_interval(make_results: Make) -> None:
    whole = headlines(learned(make_results(rounds=3), "number"))[0]
    assert whole.name == "Weighted mean RMSE"
    assert (whole.figure, whole.unit) == ("0.7310", "cycles")
    assert whole.note.endswith("95% interval 0.6310 to 0.8310 cycles")


def decided(results: Results) -> Results:
    chosen, half = (
        DecisionScores(
            threshold=threshold,
            true_positives=91,
            false_positives=222,
            false_negatives=9,
            true_negatives=678,
            cost=cost,
        )
        for threshold, cost in ((0.123456, 267.0), (0.5, 999.0))
    )
    known = GroupScores(
        group="f",
        num_examples=500,
        accuracy=0.8,
        selection_rate=0.31,
        true_positive_rate=0.9,
        false_positive_rate=0.2,
    )
    few = GroupScores(
        group="<b>m</b>",
        num_examples=None,
        accuracy=None,
        selection_rate=None,
        true_positive_rate=None,
        false_positive_rate=None,
    )
    fairness = FairnessResult(
        column="sex",
        groups=(known, few),
        demographic_parity_gap=0.123,
        equalised_odds_gap=0.234,
        worst_group="f",
    )
    decisions = Decisions(chosen=chosen, at_half=half, fairness=(fairness,), minimum_group=20)
    assert results.final is not None
    return results.model_copy(update={"final": results.final.model_copy(update={"decisions": decisions})})


def test_threshold_costs_and_gaps_are_in_the_page_and_the_table(make_results: Make) -> None:
    results = make_results(rounds=3)
    assert 'id="decisions"' not in render(results, "")
    page, table = render(decided(results), ""), metrics_csv(decided(results))
    for text in (
        "0.1235, chosen",
        "267",
        "999",
        "fewer than 20",
        "12.3 points",
        "23.4 points",
        "<bdi>f</bdi></strong>",
    ):
        assert text in page
    assert "<b>m</b>" not in page
    assert "3,,test,threshold,0.123456" in table
    assert "3,,test,equalised_odds_gap:sex,0.234" in table


def test_the_page_says_the_gain_in_the_figures_own_unit(make_results: Make) -> None:
    results = make_results(baselines=True)
    assert results.final is not None

    def of(target: str, against: WorstAgainstLocal, unit: str = "") -> Results:
        final = results.final.model_copy(update={"worst_site_against_local": against}) if results.final else None
        return results.model_copy(update={"target": target, "unit": unit, "final": final})

    rmse = WorstAgainstLocal(site="Riga", figure="rmse", federated=18.5, local_only=21.0, difference=2.5)
    found = headlines(of("number", rmse, "cycles"))[3]
    assert (found.name, found.figure, found.unit) == ("Worst site against training alone", "+2.50", "cycles")
    assert found.note == "18.50 cycles federated, 21.00 cycles alone"
    area = WorstAgainstLocal(site="Riga", figure="roc_auc", federated=0.7, local_only=0.8, difference=-0.1)
    found = headlines(of("reconstruction", area))[3]
    assert (found.name, found.figure) == ("Worst site against training alone, by ROC AUC", "\N{MINUS SIGN}0.100")
    assert found.note == "0.700 federated, 0.800 alone"
    assert "by ROC AUC" in render(of("reconstruction", area), "")
    assert "Riga,test,worst_site_against_local,-0.1" in metrics_csv(of("reconstruction", area))
