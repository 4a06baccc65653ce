"""Aggregation strategies, one file each; a plan names one under ``[aggregation]``."""

from hansa_server.strategies import fedavg, fedprox, scaffold
from hansa_server.strategies.strategy import STRATEGIES, Contribution, Strategy, build_strategy, next_parameters

__all__ = [
    "STRATEGIES",
    "Contribution",
    "Strategy",
    "build_strategy",
    "fedavg",
    "fedprox",
    "next_parameters",
    "scaffold",
]
