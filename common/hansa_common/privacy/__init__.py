"""Differential privacy: clipping, exact noise, mechanisms in two halves, and what they cost.

No torch here, and ``dp_accounting`` is imported by what computes with it only.
"""

from hansa_common.privacy.accounting import (
    ORDERS,
    best_order,
    check_delta,
    epsilon_from_rdp,
    epsilon_pld,
    epsilon_rdp,
    epsilon_within,
    noise_multiplier_for,
    rdp_at,
    rdp_from_epsilon,
    rounds_affordable,
    training,
)
from hansa_common.privacy.budget import Budget, add, exact, round_up
from hansa_common.privacy.clipping import Clipped, check_bound, clip_l2
from hansa_common.privacy.discrete_gaussian import DiscreteGaussian
from hansa_common.privacy.discrete_laplace import noise_count
from hansa_common.privacy.events import (
    DistributedGaussian,
    Event,
    Gaussian,
    NoisedCounts,
    Relation,
    SampledGaussian,
    Unit,
    bundle,
    common_ground,
    dump_events,
    load_events,
    multiplier_of,
    tally,
)
from hansa_common.privacy.keystream import Keystream
from hansa_common.privacy.mechanism import DistributedMechanism, ServerMechanism
from hansa_common.privacy.quantile import AdaptiveClipping

__all__ = [
    "ORDERS",
    "AdaptiveClipping",
    "Budget",
    "Clipped",
    "DiscreteGaussian",
    "DistributedGaussian",
    "DistributedMechanism",
    "Event",
    "Gaussian",
    "Keystream",
    "NoisedCounts",
    "Relation",
    "SampledGaussian",
    "ServerMechanism",
    "Unit",
    "add",
    "best_order",
    "bundle",
    "check_bound",
    "check_delta",
    "clip_l2",
    "common_ground",
    "dump_events",
    "epsilon_from_rdp",
    "epsilon_pld",
    "epsilon_rdp",
    "epsilon_within",
    "exact",
    "load_events",
    "multiplier_of",
    "noise_count",
    "noise_multiplier_for",
    "rdp_at",
    "rdp_from_epsilon",
    "round_up",
    "rounds_affordable",
    "tally",
    "training",
]
