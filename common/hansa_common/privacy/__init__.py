"""Differential privacy: clipping, exact noise, mechanisms in two halves, and what they cost.

No torch here, and ``dp_accounting`` is imported by what computes with it only.
"""

from hansa_common.privacy.accounting import (
    LEDGER_ORDER,
    ORDERS,
    check_delta,
    epsilon_from_rdp,
    epsilon_pld,
    epsilon_rdp,
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
    Event,
    Gaussian,
    NoisedCounts,
    Relation,
    SampledGaussian,
    Unit,
    common_ground,
    dump_events,
    load_events,
    multiplier_of,
)
from hansa_common.privacy.keystream import Keystream
from hansa_common.privacy.mechanism import DistributedGaussian, ServerGaussian
from hansa_common.privacy.quantile import AdaptiveClipping

__all__ = [
    "LEDGER_ORDER",
    "ORDERS",
    "AdaptiveClipping",
    "Budget",
    "Clipped",
    "DiscreteGaussian",
    "DistributedGaussian",
    "Event",
    "Gaussian",
    "Keystream",
    "NoisedCounts",
    "Relation",
    "SampledGaussian",
    "ServerGaussian",
    "Unit",
    "add",
    "check_bound",
    "check_delta",
    "clip_l2",
    "common_ground",
    "dump_events",
    "epsilon_from_rdp",
    "epsilon_pld",
    "epsilon_rdp",
    "exact",
    "load_events",
    "multiplier_of",
    "noise_count",
    "noise_multiplier_for",
    "rdp_at",
    "rdp_from_epsilon",
    "round_up",
    "rounds_affordable",
    "training",
]
