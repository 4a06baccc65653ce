from collections.abc import Callable
from typing import Any

import pytest

from hansa_client.policy import check
from hansa_client.settings import PolicySettings, SiteSettings
from hansa_common.errors import PolicyRefused
from hansa_common.plan import StudyPlan

Make = Callable[..., StudyPlan]
NOISE = {"kind": "site_server", "clipping_bound": 1.0, "noise_multiplier": 1.0, "epsilon": 9.0, "delta": 1e-5}


def _masked(make_plan: Make, sites: int, cohort: str) -> StudyPlan:
    privacy = {"maximum_examples": 100, "secure_aggregation": {"coordinate_range": 1.0, "cohort": cohort}}
    names = [f"site-{number:02}" for number in range(sites)]
    return make_plan(privacy=privacy, federation={"sites": names}, replaced={"simulation": None})


def _settings(**policy: Any) -> SiteSettings:
    return SiteSettings(policy=PolicySettings(**policy))


def test_by_default_any_approved_plan_may_run(make_plan: Make) -> None:
    check(make_plan(), SiteSettings())
    check(_masked(make_plan, 3, "fixed"), SiteSettings())


def test_a_site_may_require_masks(make_plan: Make) -> None:
    with pytest.raises(PolicyRefused, match="requires secure aggregation"):
        check(make_plan(), _settings(secure_aggregation="required"))
    check(_masked(make_plan, 3, "fixed"), _settings(secure_aggregation="required"))


def test_a_site_may_require_noise(make_plan: Make) -> None:
    with pytest.raises(PolicyRefused, match="requires differential privacy"):
        check(make_plan(), _settings(differential_privacy="required"))
    check(make_plan(privacy={"weights": "equal", "differential": NOISE}), _settings(differential_privacy="required"))


@pytest.mark.parametrize(
    ("sites", "cohort", "fewest"), [(6, "fixed", 6), (6, "changing", 5), (10, "changing", 7), (3, "changing", 3)]
)
def test_the_smallest_sum_that_may_be_opened_follows_from_the_plans_list(
    make_plan: Make, sites: int, cohort: str, fewest: int
) -> None:
    plan = _masked(make_plan, sites, cohort)
    check(plan, _settings(minimum_sites=fewest))
    with pytest.raises(PolicyRefused, match=f"opens the sum of {fewest} sites"):
        check(plan, _settings(minimum_sites=fewest + 1))
