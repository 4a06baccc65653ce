"""The one figure by which a study's models are compared: in progress, in the headline and for the worst site."""

from collections.abc import Mapping
from typing import Final, Literal

from hansa_common.metrics.classification import ClassificationCounts
from hansa_common.metrics.counts import Counts
from hansa_common.metrics.regression import RegressionCounts
from hansa_common.metrics.survival import SurvivalCounts

MainFigure = Literal["accuracy", "rmse", "c_index", "reconstruction_error"]

IS_HIGHER_BETTER: Final[Mapping[MainFigure, bool]] = {
    "accuracy": True,
    "rmse": False,
    "c_index": True,
    "reconstruction_error": False,
}
"""What is better: more of it, or less."""


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
