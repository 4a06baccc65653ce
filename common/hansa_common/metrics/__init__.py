"""Metrics that merge across sites exactly: counts are added, figures computed once from the sum."""

from hansa_common.metrics.counts import ClassificationCounts, num_sums
from hansa_common.metrics.curves import Reliability, reliability, roc_curve
from hansa_common.metrics.scores import (
    ScoreValues,
    accuracy,
    balanced_accuracy,
    calibration_error,
    f1,
    loss,
    precision,
    recall,
    roc_auc,
    scores,
)

__all__ = [
    "ClassificationCounts",
    "Reliability",
    "ScoreValues",
    "accuracy",
    "balanced_accuracy",
    "calibration_error",
    "f1",
    "loss",
    "num_sums",
    "precision",
    "recall",
    "reliability",
    "roc_auc",
    "roc_curve",
    "scores",
]
