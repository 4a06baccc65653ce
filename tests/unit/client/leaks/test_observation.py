from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from hansa_client.leaks.observation import observed
from hansa_client.leaks.pipeline import SiteUpdate, changed_plan
from hansa_common.metrics import ClassificationKind
from hansa_common.plan import StudyPlan

UPDATES = (
    SiteUpdate(site="a", delta=np.array([1.0, 0.0, 4.0], np.float32), num_examples=10),
    SiteUpdate(site="b", delta=np.array([3.0, 0.0, 0.0], np.float32), num_examples=30),
    SiteUpdate(site="c", delta=np.array([0.0, 6.0, 0.0], np.float32), num_examples=20),
)


def test_without_protection_the_coordinator_reads_every_update(small_plan: StudyPlan) -> None:
    views = observed(small_plan, UPDATES).views
    assert [view.sites for view in views] == [("a",), ("b",), ("c",)]
    assert all(np.array_equal(view.delta, update.delta) for view, update in zip(views, UPDATES, strict=True))


@pytest.mark.parametrize(
    ("privacy", "expected"),
    [
        ({"weights": "equal"}, [4 / 3, 2.0, 4 / 3]),
        ({"weights": "examples", "maximum_examples": 100}, [100 / 60, 2.0, 40 / 60]),
    ],
)
def test_under_masks_it_reads_the_sum_alone(
    small_plan: StudyPlan, privacy: dict[str, Any], expected: list[float]
) -> None:
    masks = {"secure_aggregation": {"coordinate_range": 10.0, "cohort": "fixed"}}
    seen = observed(changed_plan(small_plan, {"privacy": privacy | masks}), UPDATES)
    (view,) = seen.views
    assert np.array_equal(view.delta, seen.step)
    assert view.sites == ("a", "b", "c")
    np.testing.assert_allclose(view.delta, expected, atol=1e-6)


def test_the_models_step_is_weighted_by_examples(small_plan: StudyPlan) -> None:
    np.testing.assert_allclose(observed(small_plan, UPDATES).step, [100 / 60, 2.0, 40 / 60], rtol=1e-6)


def test_the_updates_are_those_of_a_simulation(
    one_round: Callable[..., Any], make_plan: Callable[..., StudyPlan]
) -> None:
    """Oracle: the sessions of the simulation, which engines carry the bytes to."""
    from hansa_client.session import SiteState, handle
    from hansa_common.messages import Message, OpenTask, TrainTask, decode, encode

    run = one_round(None)
    for index, update in enumerate(run.updates):
        state = SiteState(index=index)
        handle(encode(Message(header=OpenTask(plan=run.plan.model_dump_json()))), state)
        task = TrainTask(plan_digest=run.plan.digest(), round=1, attempt=1)
        reply = decode(
            handle(encode(Message(header=task, vector=run.parameters)), state), kind=ClassificationKind(classes=10)
        )
        assert reply.vector is not None
        assert np.array_equal(reply.vector, update.delta)


def noised(kind: str, multiplier: float = 0.5) -> dict[str, Any]:
    return {
        "kind": kind,
        "clipping_bound": 0.1,
        "noise_multiplier": multiplier,
        "epsilon": 8.0,
        "delta": 1e-3,
    }


def test_the_plans_bound_is_applied_before_anybody_sees_it(small_plan: StudyPlan) -> None:
    plan = changed_plan(small_plan, {"privacy": {"clipping_bound": 0.5}})
    norms = [float(np.linalg.norm(view.delta)) for view in observed(plan, UPDATES).views]
    assert norms == [pytest.approx(0.5)] * 3


def test_a_trusted_coordinator_leaves_the_noised_mean_to_others(small_plan: StudyPlan) -> None:
    plan = changed_plan(small_plan, {"privacy": {"weights": "equal", "differential": noised("site_server")}})
    seen = [observed(plan, UPDATES) for _ in range(60)]
    assert all(len(round_.views) == 1 and np.array_equal(round_.views[0].delta, round_.step) for round_ in seen)
    steps = np.array([round_.step for round_ in seen])
    clipped = [0.1 * update.delta / np.linalg.norm(update.delta) for update in UPDATES]
    np.testing.assert_allclose(steps.mean(axis=0), np.mean(clipped, axis=0), atol=0.011)  # 5 standard errors
    # The noise of one coordinate of the mean over three sites.
    assert 0.7 < steps.std(axis=0).mean() / (0.5 * 0.1 / 3) < 1.3


def test_under_masks_the_sites_noise_is_in_the_sum(small_plan: StudyPlan) -> None:
    masks = {"secure_aggregation": {"coordinate_range": 1.0, "cohort": "fixed"}}
    privacy = {"weights": "equal", "differential": noised("site_distributed")}
    plan = changed_plan(small_plan, {"privacy": privacy | masks})
    steps = np.array([observed(plan, UPDATES).step for _ in range(40)])
    clipped = [0.1 * update.delta / np.linalg.norm(update.delta) for update in UPDATES]
    np.testing.assert_allclose(steps.mean(axis=0), np.mean(clipped, axis=0), atol=0.016)
    # Honest are t - m = 2 of 3 sites, so the three shares are more than is claimed: sqrt(3 / 2) of it.
    assert 0.7 < steps.std(axis=0).mean() / (0.5 * 0.1 / 3 * np.sqrt(3 / 2)) < 1.3


def test_a_coarse_ring_rounds(small_plan: StudyPlan) -> None:
    masks = {"secure_aggregation": {"ring_bits": 16, "coordinate_range": 10.0, "cohort": "fixed"}}
    step = observed(changed_plan(small_plan, {"privacy": {"weights": "equal"} | masks}), UPDATES).step
    error = np.abs(step - np.mean([update.delta for update in UPDATES], axis=0))
    assert 0 < error.max() < 10.0 / 8191
