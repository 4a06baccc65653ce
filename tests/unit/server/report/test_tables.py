import csv
import io
from collections.abc import Callable

import pytest

from hansa_server.report import metrics_csv
from hansa_server.report.columns import FIGURES
from hansa_server.results import Results

Make = Callable[..., Results]
Key = tuple[int, str, str, str]


def read(text: str) -> dict[Key, float | None]:
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    found = {
        (int(row["round"]), row["site"], row["split"], row["figure"]): float(row["value"]) if row["value"] else None
        for row in rows
    }
    assert len(found) == len(rows), "a figure is written twice"
    return found


def test_every_figure_comes_back_exactly(make_results: Make) -> None:
    results = make_results(baselines=True, coordinator=True, rounds=5, missing={2: {"Visby": "late"}})
    found = read(metrics_csv(results))
    final, baselines = results.final, results.baselines
    assert final is not None
    assert baselines is not None
    assert final.worst_site_against_local is not None
    for figure in ["num_examples", *(column.figure for column in FIGURES["classes"])]:
        for site in results.sites:
            assert found[5, site.site, "test", figure] == getattr(site.federated, figure)
            assert found[5, site.site, "test", f"local_only_{figure}"] == getattr(site.local_only, figure)
        assert found[5, "", "test", f"weighted_mean_{figure}"] == getattr(final.weighted_mean, figure)
        assert found[5, "", "test", f"pooled_site_mean_{figure}"] == getattr(baselines.pooled.site_mean, figure)
        assert found[5, "", "coordinator", figure] == getattr(final.coordinator, figure)
    assert found[5, "Visby", "test", "worst_site_against_local"] == final.worst_site_against_local.difference
    matrix = baselines.cross_site
    assert matrix is not None
    assert found[5, "Visby", "test", "local_only_accuracy_of:Hamburg"] == matrix.local_only[1][3]
    assert found[2, "Visby", "", "missing"] == 1
    assert found[5, "Visby", "", "examples:cat"] == results.sites[3].class_counts[3]


def test_a_row_belongs_to_the_rounds_its_model_was_trained_for(make_results: Make) -> None:
    results = make_results(rounds=5)
    found = read(metrics_csv(results))
    assert results.final is not None
    assert found[0, "", "validation", "weighted_mean_accuracy"] == results.rounds[0].incoming.weighted_mean_accuracy
    assert found[1, "", "train", "loss"] == results.rounds[0].train_loss
    assert found[5, "", "validation", "worst_site_accuracy"] == results.final.validation.worst_site_accuracy


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@SUM(A1)", "\tx", "\rx"])
def test_a_name_cannot_be_a_formula(make_results: Make, name: str) -> None:
    sites = {site for _, site, _, _ in read(metrics_csv(make_results(names=(name, "b"), rounds=1)))}
    assert sites == {f"'{name}", "b", ""}


def test_names_with_commas_quotes_and_lines_come_back(make_results: Make) -> None:
    name = 'St. Mary, "North"\nWing'
    assert (1, name, "test", "accuracy") in read(metrics_csv(make_results(names=(name, "b"), rounds=1)))


def test_a_study_that_ended_early_has_what_there_is(make_results: Make) -> None:
    text = metrics_csv(make_results(rounds=2, finished=False))
    assert (2, "Visby", "", "rounds_contributed") in read(text)
    assert "weighted_mean_f1" not in text
    assert metrics_csv(make_results(rounds=0, finished=False, sites=())) == "round,site,split,figure,value\r\n"


def test_what_was_not_measured_is_empty(make_results: Make) -> None:
    results = make_results(rounds=1)
    assert results.final is not None
    assert results.final.weighted_mean is not None
    coordinator = results.final.weighted_mean.model_copy(update={"roc_auc": None})
    final = results.final.model_copy(update={"coordinator": coordinator})
    found = read(metrics_csv(results.model_copy(update={"final": final})))
    assert found[1, "", "coordinator", "roc_auc"] is None
