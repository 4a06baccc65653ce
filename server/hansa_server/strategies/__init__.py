"""Aggregation strategies, one file each; a plan names one under ``[aggregation]``."""

from hansa_server.strategies import (
    afl,
    centered_clipping,
    fedadagrad,
    fedadam,
    fedavg,
    fedavgm,
    fednova,
    fedyogi,
    fltrust,
    geometric_median,
    median,
    multi_krum,
    norm_bound,
    qffl,
    trimmed_mean,
)
from hansa_server.strategies.strategy import STRATEGIES, Contribution, Strategy, build_strategy, next_parameters

__all__ = [
    "STRATEGIES",
    "Contribution",
    "Strategy",
    "afl",
    "build_strategy",
    "centered_clipping",
    "fedadagrad",
    "fedadam",
    "fedavg",
    "fedavgm",
    "fednova",
    "fedyogi",
    "fltrust",
    "geometric_median",
    "median",
    "multi_krum",
    "next_parameters",
    "norm_bound",
    "qffl",
    "trimmed_mean",
]
