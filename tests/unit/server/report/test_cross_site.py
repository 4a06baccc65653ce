"""Every model at every site, on the page."""

import html
from collections.abc import Callable

import pytest

from hansa_server.report import render
from hansa_server.report.cross_site import cross_site
from hansa_server.results import Results

Make = Callable[..., Results]


def with_matrix(results: Results, **changes: object) -> Results:
    assert results.baselines is not None
    assert results.baselines.cross_site is not None
    matrix = results.baselines.cross_site.model_copy(update=changes)
    return results.model_copy(update={"baselines": results.baselines.model_copy(update={"cross_site": matrix})})


def test_it_says_what_a_model_is_worth_at_home_and_elsewhere(make_results: Make) -> None:
    rows = ((0.9, 0.5), (0.6, 0.8))
    results = with_matrix(
        make_results(baselines=True), sites=("Visby", "Riga"), federated=(0.95, 0.75), local_only=rows
    )
    page = render(results, "")
    wanted = "Mean accuracy of the sites' own models: 85.0% at home, 55.0% elsewhere; of the federation's model: 85.0%."
    assert wanted in html.unescape(page)
    assert "Model of the federation, tested at Visby: 95.0%" in page
    assert "Model of Visby, tested at Riga: 50.0%" in page
    assert page.index('id="across"') < page.index('id="partition"')


def test_a_federation_whose_figures_stay_at_the_sites_has_no_row(make_results: Make) -> None:
    results = make_results(baselines=True)
    kept = cross_site(with_matrix(results, federated=(None,) * len(results.sites)))
    assert kept is not None
    assert "federation" not in kept.chart + kept.sentence


@pytest.mark.parametrize("shape", [{}, {"baselines": True, "names": ("Riga",)}])
def test_there_is_no_matrix_without_baselines_or_others(make_results: Make, shape: dict[str, object]) -> None:
    assert 'id="across"' not in render(make_results(**shape), "")
