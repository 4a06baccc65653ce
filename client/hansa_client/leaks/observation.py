"""What the coordinator of a study sees of its sites' updates, with and without the plan's protection.

Shapes: ``P`` parameters, ``S`` sites.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from hansa_client.leaks.pipeline import SiteUpdate
from hansa_common.parameters import Vector, add_scaled
from hansa_common.plan import StudyPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """One vector that the coordinator reads.

    Attributes:
        sites: Whose updates are in it.
        delta: ``float32 [P]``, their weighted mean.
    """

    sites: tuple[str, ...]
    delta: Vector = field(repr=False)


def observed(plan: StudyPlan, updates: Sequence[SiteUpdate]) -> tuple[Observation, ...]:
    """Return all that the coordinator reads in one round: each update, or the sum alone.

    Args:
        plan: Its ``[privacy]`` decides.
        updates: What the sites' release steps let out, of all sites.
    """
    if plan.privacy.secure_aggregation is None:
        return tuple(Observation(sites=(update.site,), delta=update.delta) for update in updates)
    return (mean_update(plan, updates),)


def mean_update(plan: StudyPlan, updates: Sequence[SiteUpdate]) -> Observation:
    """Return the step of the common model: the mean of the updates, weighted as the plan says, summed in float64."""
    equal = plan.privacy.weights == "equal"
    weights = [1.0 if equal else float(update.num_examples) for update in updates]
    total = np.zeros(updates[0].delta.size)
    for update, weight in zip(updates, weights, strict=True):
        add_scaled(total, update.delta, weight / sum(weights))
    return Observation(sites=tuple(update.site for update in updates), delta=total.astype(np.float32))
