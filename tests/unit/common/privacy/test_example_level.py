import pytest

from hansa_common.privacy.accounting import epsilon_rdp
from hansa_common.privacy.events import Gaussian, SampledGaussian, Unit, common_ground
from hansa_common.privacy.example_level import counts_event, training_event
from hansa_common.privacy_plan import DifferentialPrivacyPlan


def make_plan(**keys: object) -> DifferentialPrivacyPlan:
    values = {"kind": "example", "clipping_bound": 0.5, "noise_multiplier": 1.3, "epsilon": 1.0, "delta": 1e-5}
    return DifferentialPrivacyPlan.model_validate(values | {"sampling_rate": 0.004} | keys)


def test_training_costs_what_the_plan_says_whatever_the_clipping_bound() -> None:
    event = training_event(make_plan(), steps=250)
    assert event == training_event(make_plan(clipping_bound=3.0), steps=250)
    assert event == SampledGaussian(unit=Unit.EXAMPLE, noise_multiplier=1.3, sampling_rate=0.004, steps=250)
    assert epsilon_rdp([event] * 15, 1e-5) == pytest.approx(0.922, abs=2e-3)


def test_counts_cost_one_gaussian_an_evaluation_and_nothing_where_none_leave() -> None:
    assert counts_event(make_plan()) is None
    event = counts_event(make_plan(metrics_noise=20.0), evaluations=3)
    assert event == Gaussian(unit=Unit.EXAMPLE, noise_multiplier=20.0, count=3)
    assert common_ground([event, training_event(make_plan(), steps=1)])[0] is Unit.EXAMPLE


def test_another_kind_trains_without_noise_at_the_site() -> None:
    plan = make_plan(kind="site_server", sampling_rate=None)
    with pytest.raises(RuntimeError, match="site_server"):
        training_event(plan, steps=1)
