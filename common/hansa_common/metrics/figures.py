"""The one figure by which a study's models are compared: in progress, in the headline and for the worst site."""

from collections.abc import Mapping
from typing import Final, Literal

from hansa_common.metrics.classification import ClassificationCounts
from hansa_common.metrics.counts import Counts
from hansa_common.metrics.reconstruction import ReconstructionCounts
from hansa_common.metrics.regression import RegressionCounts
from hansa_common.metrics.survival import SurvivalCounts

MainFigure = Literal["accuracy", "rmse", "c_index", "reconstruction_error"]
VerdictFigure = MainFigure | Literal["roc_auc"]

IS_HIGHER_BETTER: Final[Mapping[VerdictFigure, bool]] = {
    "accuracy": True,
    "rmse": False,
    "c_index": True,
    "reconstruction_error": False,
    "roc_auc": True,
}
"""What is better: more of it, or less."""


def verdict_figure(counts: Counts) -> VerdictFigure:
    """Return what a site's two models are compared by: the main figure, but of known anomalies how well they are told.

    A reconstruction error says how well a model knows the normal; where anomalies are known, that is not the question.
    """
    if isinstance(counts, ReconstructionCounts) and counts.has_histograms:
        return "roc_auc"
    return main_figure(counts)


def main_figure(counts: Counts) -> MainFigure:
    """Return the name of the figure, which is a field of ``ScoreValues``."""
    match counts:
        case ClassificationCounts():
            return "accuracy"
        case RegressionCounts():
            return "rmse"
        case SurvivalCounts():
            return "c_index"
    return "reconstruction_error"
