"""Aggregation strategies, one file each; a plan names one under ``[aggregation]``."""

from hansa_server.strategies import (
    afl,
    fedadagrad,
    fedadam,
    fedavg,
    fedavgm,
    fednova,
    fedprox,
    fedyogi,
    qffl,
    scaffold,
)
from hansa_server.strategies.strategy import STRATEGIES, Contribution, Strategy, build_strategy, next_parameters

__all__ = [
    "STRATEGIES",
    "Contribution",
    "Strategy",
    "afl",
    "build_strategy",
    "fedadagrad",
    "fedadam",
    "fedavg",
    "fedavgm",
    "fednova",
    "fedprox",
    "fedyogi",
    "next_parameters",
    "qffl",
    "scaffold",
]
