"""What the adversary sees of one round: each update, or what the plan's protection leaves of it.

The sites' half (clipping, encoding, their part of the noise) and the server's (decoding, its noise) are the functions
of ``hansa_common.protection`` that the release step and the server call. The masks are left out: they cancel in the sum
bit for bit, and a masked upload by itself is uniformly random.

The adversary is the coordinator. Only where the plan has the coordinator add the noise, and so trusts it, the adversary
is somebody who gets the models.

Shapes: ``P`` parameters.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from hansa_client.leaks.pipeline import SiteUpdate
from hansa_common.parameters import Accumulator, Vector
from hansa_common.plan import StudyPlan
from hansa_common.privacy import Keystream, ServerMechanism, clip_l2
from hansa_common.protection import counted_examples, encode_update, server_gaussian, terms_of, unit_of, update_bound


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


def trusts_the_coordinator(plan: StudyPlan) -> bool:
    """Tell whether the plan's protection is against those who get the models, and not against the coordinator."""
    noised = plan.privacy.differential
    return noised is not None and noised.kind == "site_server"


def observed(plan: StudyPlan, updates: Sequence[SiteUpdate]) -> Observed:
    """Return what the adversary sees of these updates, and the step of the common model.

    Args:
        plan: Its ``[privacy]`` decides.
        updates: What training gave at each site, of all sites.

    Raises:
        PlanError: The plan's protection does not fit these sites or this model.
        ReleaseRefused: An update must not leave.
    """
    size, names = updates[0].delta.size, tuple(update.site for update in updates)
    bound = update_bound(plan, sites=len(updates), dimension=size)
    deltas = [update.delta if bound is None else clip_l2(update.delta, bound).vector for update in updates]
    counted = [counted_examples(plan.privacy, update.num_examples) for update in updates]
    noise = server_gaussian(plan, size)
    if plan.privacy.secure_aggregation is not None:
        total = _masked_sum(plan, updates, deltas)
    else:
        total = np.zeros(size)
        for delta, weight in zip(deltas, counted, strict=True):
            total += weight * delta.astype(np.float64)
    step = (total / sum(counted)).astype(np.float32) if noise is None else _noised(total, noise, len(updates))
    if plan.privacy.secure_aggregation is not None or trusts_the_coordinator(plan):
        return Observed(views=(Observation(sites=names, delta=step),), step=step)
    views = (Observation(sites=(name,), delta=delta) for name, delta in zip(names, deltas, strict=True))
    return Observed(views=tuple(views), step=step)


def _masked_sum(plan: StudyPlan, updates: Sequence[SiteUpdate], deltas: Sequence[Vector]) -> Accumulator:
    """Return the sum of the encoded updates, decoded: ``float64 [P]``."""
    terms = terms_of(plan, [update.site for update in updates])
    total = np.zeros(deltas[0].size, dtype=terms.dtype)
    for update, delta in zip(updates, deltas, strict=True):
        total += encode_update(plan, terms, delta, update.num_examples)  # modulo the ring
    signed = total.view(f"<i{total.itemsize}")
    return np.asarray(signed * unit_of(plan, terms, total.size), dtype=np.float64)


def _noised(total: Accumulator, noise: ServerMechanism, sites: int) -> Vector:
    steps = noise.steps(total)
    noise.add_noise(steps, Keystream())
    return noise.mean(steps, sites=sites)
