from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from hansa_client.leaks.canaries import plant
from hansa_client.leaks.membership import area
from hansa_client.leaks.one_run import audit
from hansa_client.leaks.pipeline import changed_plan
from hansa_client.leaks.rehearsed import rehearse
from hansa_client.site_data import simulated_site
from hansa_common.plan import StudyPlan

OVERFIT = {"optimizer": "adam", "learning_rate": 3e-3, "batch_size": 16, "epochs": 6}


@pytest.mark.slow
def test_without_protection_canaries_and_members_are_found(make_plan: Callable[..., StudyPlan]) -> None:
    """The attacks work: what they find under protection would say nothing otherwise."""
    plan = make_plan(model={"name": "mlp", "hidden": [256]}, replaced={"training": OVERFIT}, rounds={"count": 2})
    sites = [simulated_site(plan, index) for index in range(4)]
    planted = plant(sites, per_site=60, classes=10, seed=1)
    included = np.concatenate([site.included for site in planted])
    shares: list[float] = []
    seen = rehearse(plan, planted, shares.append)
    assert shares[-1] == 1.0
    assert area(seen.members, seen.others) > 0.52
    found = audit(included, seen.canaries)
    assert found.epsilon > 1.5, found
    # canaries that nobody trained on are not told from each other: the scores do not know the coins
    out = seen.canaries[~included]
    assert audit(np.arange(len(out)) % 2 == 0, out).epsilon < 0.5


@pytest.mark.slow
def test_masks_hide_part_of_it(make_plan: Callable[..., StudyPlan]) -> None:
    plan = make_plan(model={"name": "mlp", "hidden": [256]}, replaced={"training": OVERFIT}, rounds={"count": 3})
    masks = {"weights": "equal", "secure_aggregation": {"coordinate_range": 1.0, "cohort": "fixed"}}
    planted = plant([simulated_site(plan, index) for index in range(4)], per_site=60, classes=10, seed=1)
    included = np.concatenate([site.included for site in planted])
    own, mean = (
        audit(included, rehearse(variant, planted, lambda _share: None).canaries).epsilon
        for variant in (plan, changed_plan(plan, {"privacy": masks}))
    )
    assert 0 < mean < own


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")  # of the library that clips gradients
def test_noise_of_epsilon_8_hides_members(make_plan: Callable[..., StudyPlan]) -> None:
    """Of 4,600 examples an area has a standard deviation of 0.009, so it is the mean of five studies that is held."""
    noise: dict[str, Any] = {"kind": "example", "clipping_bound": 1.0, "noise_multiplier": 0.8}
    budget = {"epsilon": 8.0, "delta": 1e-4, "sampling_rate": 0.1}
    sections = {
        "training": {"optimizer": "sgd", "learning_rate": 0.5, "batch_size": 64, "steps": 20},
        "data": {"kind": "image", "channels": 1, "height": 28, "width": 28, "classes": list("0123456789")},
        "simulation": {"sites": 4, "partition": "dirichlet:1.0", "data": {"adapter": "mnist5k"}},
    }
    noised = {"privacy": {"weights": "equal", "differential": noise | budget}}
    found: dict[str, list[float]] = {"bare": [], "noised": []}
    for seed in range(1, 6):
        bare = make_plan(model={"name": "mlp", "hidden": [64]}, replaced=sections, evaluation={"test": 0.4}, seed=seed)
        for name, plan in (("bare", bare), ("noised", changed_plan(bare, noised))):
            planted = plant([simulated_site(plan, index) for index in range(4)], per_site=100, classes=10, seed=seed)
            seen = rehearse(plan, planted, lambda _share: None)
            found[name].append(area(seen.members, seen.others))
    assert np.mean(found["noised"]) <= 0.52, found
    assert np.mean(found["noised"]) < np.mean(found["bare"]), found
