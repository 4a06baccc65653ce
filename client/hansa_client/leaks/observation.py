"""What the adversary sees of one round: each update, or what the plan's protection leaves of it.

With secure aggregation the sites' encoding (``hansa_common.secagg.fixedpoint``) is summed in the ring. The masks are
left out, for they cancel in the sum bit for bit, and a masked upload by itself is uniformly random.

Shapes: ``P`` parameters, ``S`` sites.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from hansa_client.leaks.pipeline import SiteUpdate
from hansa_common.parameters import Vector, add_scaled
from hansa_common.plan import StudyPlan
from hansa_common.privacy_plan import PrivacyPlan, SecureAggregationPlan
from hansa_common.secagg.fixedpoint import FixedPoint, Rounding


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """One vector that the adversary reads.

    Attributes:
        sites: Whose updates are in it.
        delta: ``float32 [P]``, their weighted mean.
    """

    sites: tuple[str, ...]
    delta: Vector = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """One round.

    Attributes:
        views: All that the adversary reads.
        step: ``float32 [P]``, what is added to the common model.
    """

    views: tuple[Observation, ...]
    step: Vector = field(repr=False)


def observed(plan: StudyPlan, updates: Sequence[SiteUpdate]) -> Observed:
    """Return what the adversary sees of these updates, and the step of the common model.

    Args:
        plan: Its ``[privacy]`` decides.
        updates: What the sites' release steps let out, of all sites.
    """
    names = tuple(update.site for update in updates)
    weights = _weights(plan.privacy, updates)
    masked = plan.privacy.secure_aggregation
    if masked is not None:
        step = _masked_mean(masked, updates, weights)
        return Observed(views=(Observation(sites=names, delta=step),), step=step)
    views = tuple(Observation(sites=(update.site,), delta=update.delta) for update in updates)
    return Observed(views=views, step=_mean(updates, weights))


def _weights(privacy: PrivacyPlan, updates: Sequence[SiteUpdate]) -> list[float]:
    """Return each site's weight; under masks as a part of the plan's largest."""
    if privacy.weights == "equal":
        return [1.0] * len(updates)
    most = privacy.maximum_examples or max(update.num_examples for update in updates)
    return [min(update.num_examples, most) / most for update in updates]


def _mean(updates: Sequence[SiteUpdate], weights: Sequence[float]) -> Vector:
    """Return the weighted mean, summed in float64 in the order of the sites."""
    total = np.zeros(updates[0].delta.size)
    for update, weight in zip(updates, weights, strict=True):
        add_scaled(total, update.delta, weight)
    return np.asarray(total / sum(weights), dtype=np.float32)


def _masked_mean(plan: SecureAggregationPlan, updates: Sequence[SiteUpdate], weights: Sequence[float]) -> Vector:
    encoding = FixedPoint(ring_bits=plan.ring_bits, coordinate_range=plan.coordinate_range, sites=len(updates))
    total = np.zeros(updates[0].delta.size, dtype=encoding.dtype)
    for update, weight in zip(updates, weights, strict=True):
        words, _ = encoding.encode(update.delta, weight, rounding=Rounding())
        total += words  # modulo the ring
    return np.asarray(encoding.decode(total) / sum(weights), dtype=np.float32)
