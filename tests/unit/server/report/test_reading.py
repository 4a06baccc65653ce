"""What a reader would stumble over: words about what is not drawn, figures cut short, a scale that means nothing."""

import csv
import io
from collections.abc import Callable
from pathlib import Path

import pytest

from hansa_server.report import notation, render
from hansa_server.report.charts import confusion_chart
from hansa_server.report.charts.svg import text_width
from hansa_server.report.curves import loss_curves
from hansa_server.report.explanation import _captions
from hansa_server.report.narrative import headlines, result_sentences
from hansa_server.results import PersonalSummary, Results, Summary, WorstSite

Make = Callable[..., Results]


def test_without_validation_the_page_does_not_speak_of_it(make_results: Make) -> None:
    results = make_results(rounds=3)
    assert "Each model was evaluated on the sites' validation" in render(results, "")
    assert results.final is not None
    none = Summary(
        weighted_mean_accuracy=None,
        site_mean_accuracy=None,
        worst_site_accuracy=None,
        worst_site=None,
        weighted_mean_loss=None,
    )
    silent = results.model_copy(
        update={
            "rounds": tuple(entry.model_copy(update={"incoming": none}) for entry in results.rounds),
            "final": results.final.model_copy(update={"validation": none}),
        }
    )
    page = render(silent, "")
    assert "all that is known over the rounds is the training loss" in page
    assert "validation splits" not in page
    assert "axis need not start at zero" not in page


def personalised(results: Results, *, other: bool) -> Results:
    """Return results with models of the sites' own: others than the common one, or the same with its own layers."""
    sites = []
    for site in results.sites:
        assert site.federated is not None
        own = site.federated.model_copy(update={"accuracy": 0.987}) if other else site.federated
        sites.append(site.model_copy(update={"personal": own}))
    assert results.final is not None
    first = sites[0].personal
    assert first is not None
    summary = PersonalSummary(
        method="ditto", site_mean=first, worst_site=WorstSite(site=sites[0].site, **first.model_dump())
    )
    final = results.final.model_copy(update={"personal": summary})
    return results.model_copy(update={"sites": tuple(sites), "final": final})


def test_a_sites_own_model_has_a_bar_a_row_and_a_fifth_figure(make_results: Make) -> None:
    page = render(personalised(make_results(rounds=3, baselines=True), other=True), "")
    assert "Federated, Local-only, Pooled, Own model" in page
    assert "model-4" in page.split("</style>")[1]
    assert "its own model" in page
    assert 'class="headlines of-5"' in page
    same = render(personalised(make_results(rounds=3, baselines=True), other=False), "")
    assert "Own model" not in same
    assert "its own model" not in same


def test_a_reconstructions_training_loss_stands_alone_and_its_area_is_said(make_results: Make) -> None:
    results = make_results(rounds=3)
    assert "validation and training" in loss_curves(results, 400)
    assert results.final is not None
    assert results.final.weighted_mean is not None
    whole = results.final.weighted_mean.model_copy(update={"reconstruction_error": 0.5, "roc_auc": 0.898})
    found = results.model_copy(
        update={
            "target": "reconstruction",
            "final": results.final.model_copy(update={"weighted_mean": whole}),
        }
    )
    assert "Loss of the shared model over the rounds: training" in loss_curves(found, 400)
    assert "with a ROC AUC of 0.898" in result_sentences(found, ())
    assert headlines(found)[0].figure == "0.5000"


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (21.7, "21.70"),
        (21.0, "21.00"),
        (-7.9, "\N{MINUS SIGN}7.900"),
        (5948.3, "5,948"),
        (123456.0, "123,456"),
        (0.553, "0.5530"),
        (0.0, "0.000"),
        (None, notation.MISSING),
    ],
)
def test_numbers_keep_the_zeros_at_their_end(value: float | None, written: str) -> None:
    assert notation.significant(value) == written


def test_a_picture_is_called_by_what_it_is(tmp_path: Path) -> None:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(
        [["example", "truth", "predicted", "probability_of_class"], [1, "WBC", "WBC", 0.9], [12, "RBC", "WBC", 0.1]]
    )
    path = tmp_path / "examples.csv"
    path.write_text(text.getvalue())
    assert _captions(path) == {"001": "WBC", "012": "RBC, taken for WBC"}
    assert _captions(tmp_path / "none.csv") == {}


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("classes", "how many of its answers were right and wrong"),
        ("number", "how many examples it has, its training loss, and how good its answers are"),
        ("survival", "how many people and events it has"),
        ("reconstruction", "how many normal and anomalous examples it has"),
    ],
)
def test_what_the_coordinator_reads_is_said_of_what_is_learned(make_results: Make, target: str, says: str) -> None:
    page = render(make_results(rounds=3).model_copy(update={"target": target}), "")
    assert says in page


def test_a_figure_that_no_row_has_has_no_column(make_results: Make) -> None:
    results = make_results(rounds=3).model_copy(update={"target": "number"})
    assert results.final is not None
    assert results.final.weighted_mean is not None
    whole = results.final.weighted_mean.model_copy(update={"rmse": 2.0})
    shown = render(results.model_copy(update={"final": results.final.model_copy(update={"weighted_mean": whole})}), "")
    assert '<th scope="col">RMSE</th>' in shown
    assert "C-MAPSS score" not in shown


def test_an_axis_name_fits_beside_a_narrow_matrix() -> None:
    svg = confusion_chart(((1, 0), (0, 1)), ("n", "p"))
    width = float(svg.split('viewBox="0 0 ')[1].split()[0])
    assert width >= 84.0 + text_width("predicted class →")
