"""Sites' own models beside the common one: in the card, on the page and in the table."""

from collections.abc import Callable

from hansa_common.plan import StudyPlan
from hansa_server.report import metrics_csv, model_card, render
from hansa_server.results import PersonalSummary, Results, WorstSite


def with_own_models(results: Results, *, below: tuple[str, ...] | None) -> Results:
    """Give each site a model of its own that is a little better than the common one."""
    assert results.final is not None
    sites = []
    for site in results.sites:
        assert site.federated is not None
        sites.append(site.model_copy(update={"personal": site.federated.model_copy(update={"accuracy": 0.98765})}))
    own = sites[0].personal
    assert own is not None
    summary = PersonalSummary(
        method="ditto",
        site_mean=own,
        worst_site=WorstSite(site=sites[1].site, **own.model_dump()),
        below_local_only=below,
    )
    final = results.final.model_copy(update={"personal": summary})
    return results.model_copy(update={"sites": tuple(sites), "final": final})


def test_own_models_stand_beside_the_common_one(make_results: Callable[..., Results], plan: StudyPlan) -> None:
    results = with_own_models(make_results(), below=None)
    name, worst = results.sites[0].site, results.sites[1].site
    card, page = model_card(results, plan), render(results, "")
    for text in (card, page):
        assert f"{name}, its own model" in text
        assert f"98.8% at {worst}" in text.replace("\u202f", "").replace("\xa0", "").replace(" %", "%")
    assert f"{name},test,personal_accuracy,0.98765" in metrics_csv(results)
    assert "its own model" not in model_card(make_results(), plan)


def test_it_says_which_site_would_have_done_better_alone(make_results: Callable[..., Results], plan: StudyPlan) -> None:
    results = make_results()
    name = results.sites[2].site
    assert f"below training alone: {name}" in model_card(with_own_models(results, below=(name,)), plan)
    assert "no site is below training alone" in model_card(with_own_models(results, below=()), plan)
