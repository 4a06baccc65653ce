"""Metrics that merge across sites exactly: counts are added, figures computed once from the sum."""

from hansa_common.metrics.classification import ClassificationCounts, ClassificationKind, num_sums, of_classes
from hansa_common.metrics.counts import Counts, CountsKind, MomentsKind
from hansa_common.metrics.curves import Reliability, reliability, roc_curve
from hansa_common.metrics.figures import IS_HIGHER_BETTER, MainFigure, VerdictFigure, main_figure, verdict_figure
from hansa_common.metrics.importance import Importance, num_importance_sums
from hansa_common.metrics.intervals import Interval
from hansa_common.metrics.kinds import counts_kind, empty_regression
from hansa_common.metrics.reconstruction import ReconstructionCounts, ReconstructionKind
from hansa_common.metrics.regression import RegressionCounts
from hansa_common.metrics.scores import (
    ScoreValues,
    accuracy,
    average_precision,
    balanced_accuracy,
    calibration_error,
    f1,
    loss,
    precision,
    recall,
    roc_auc,
    scores,
)
from hansa_common.metrics.survival import SurvivalCounts

__all__ = [
    "IS_HIGHER_BETTER",
    "ClassificationCounts",
    "ClassificationKind",
    "Counts",
    "CountsKind",
    "Importance",
    "Interval",
    "MainFigure",
    "MomentsKind",
    "ReconstructionCounts",
    "ReconstructionKind",
    "RegressionCounts",
    "Reliability",
    "ScoreValues",
    "SurvivalCounts",
    "VerdictFigure",
    "accuracy",
    "average_precision",
    "balanced_accuracy",
    "calibration_error",
    "counts_kind",
    "empty_regression",
    "f1",
    "loss",
    "main_figure",
    "num_importance_sums",
    "num_sums",
    "of_classes",
    "precision",
    "recall",
    "reliability",
    "roc_auc",
    "roc_curve",
    "scores",
    "verdict_figure",
]
