from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from hansa_client.leaks.pipeline import Sites, SiteUpdate, changed_plan, trained_on
from hansa_client.site_data import simulated_site
from hansa_common.parameters import ParameterSpec, Vector
from hansa_common.plan import StudyPlan

ONE_STEP = {"optimizer": "sgd", "learning_rate": 0.1, "batch_size": 512, "steps": 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class OneRound:
    """The real updates of one round, and what they were made of: ``originals`` is [S, B, F]."""

    plan: StudyPlan
    spec: ParameterSpec
    parameters: Vector
    updates: Sequence[SiteUpdate]
    originals: npt.NDArray[np.float64]
    labels: npt.NDArray[np.int64]


@pytest.fixture
def one_round(make_plan: Callable[..., StudyPlan]) -> Callable[..., OneRound]:
    def run(batch: int | None, **sections: Any) -> OneRound:
        """``None``: each site trains on all that it has."""
        plan = make_plan(
            **({"model": {"name": "mlp", "hidden": [1024]}, "replaced": {"training": ONE_STEP}} | sections)
        )
        plan = changed_plan(plan, {"rounds": {"count": 1}})
        rng = np.random.default_rng(3)
        sites = [simulated_site(plan, index) for index in range(4)]
        size = batch or min(len(site.splits.train) for site in sites)
        chosen = [np.sort(rng.choice(site.splits.train, size, replace=False)) for site in sites]
        if batch is not None:
            sites = [trained_on(site, examples) for site, examples in zip(sites, chosen, strict=True)]
        works = Sites(plan, sites)
        spec, parameters = works.initial()
        dataset = sites[0].dataset
        features = dataset.features[np.stack(chosen)].astype(np.float64)
        if plan.data.kind == "image":
            features = features.transpose(0, 1, 4, 2, 3) / 255
        return OneRound(
            plan=plan,
            spec=spec,
            parameters=parameters,
            updates=works.updates(parameters, 1),
            originals=features.reshape(4, size, -1),
            labels=dataset.labels[np.stack(chosen)],
        )

    return run
