"""Which figures a report shows, by what was learned, and how each is written."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from hansa_common.metrics import MainFigure, VerdictFigure
from hansa_server.figures import NAMES, write
from hansa_server.report import notation
from hansa_server.results import Results, Scores, WorstAgainstLocal

Target = Literal["classes", "number", "survival", "reconstruction"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One figure of a table.

    Attributes:
        figure: Field of ``Scores``.
        name: For people.
        write: Writes its value.
        in_card: Whether the model card's narrower table has it.
    """

    figure: str
    name: str
    write: Callable[[float | None], str]
    in_card: bool = True


def _whole(value: float | None) -> str:
    return notation.MISSING if value is None else notation.count(value)


_LOSS: Final = Column(figure="loss", name="Loss", write=notation.loss, in_card=False)

FIGURES: Final[Mapping[Target, tuple[Column, ...]]] = {
    "classes": (
        Column(figure="accuracy", name="Accuracy", write=notation.percent),
        Column(figure="balanced_accuracy", name="Balanced accuracy", write=notation.percent),
        Column(figure="precision", name="Precision", write=notation.percent, in_card=False),
        Column(figure="recall", name="Recall", write=notation.percent, in_card=False),
        Column(figure="f1", name="F1", write=notation.percent),
        Column(figure="roc_auc", name="ROC AUC", write=notation.loss),
        Column(figure="average_precision", name="AP", write=notation.loss, in_card=False),
        Column(figure="calibration_error", name="ECE", write=notation.percent),
        _LOSS,
    ),
    "number": (
        Column(figure="rmse", name="RMSE", write=notation.significant),
        Column(figure="mae", name="MAE", write=notation.significant),
        Column(figure="bias", name="Bias", write=notation.significant),
        Column(figure="r2", name="R2", write=notation.loss),
        Column(figure="cmapss_score", name="C-MAPSS score", write=notation.significant),
        _LOSS,
    ),
    "survival": (
        Column(figure="c_index", name="C-index", write=notation.loss),
        Column(figure="events", name="Events", write=_whole),
        _LOSS,
    ),
    "reconstruction": (
        Column(figure="reconstruction_error", name="Error, normal", write=notation.significant),
        Column(figure="anomaly_error", name="Error, anomalies", write=notation.significant),
        Column(figure="roc_auc", name="ROC AUC", write=notation.loss),
        Column(figure="average_precision", name="AP", write=notation.loss),
    ),
}

_MAIN: Final[Mapping[Target, MainFigure]] = {
    "classes": "accuracy",
    "number": "rmse",
    "survival": "c_index",
    "reconstruction": "reconstruction_error",
}

EXPLAINED: Final[Mapping[Target, str]] = {
    "classes": "Balanced accuracy, precision, recall, F1, ROC AUC and average precision (AP) are means over classes, "
    "the last two of the second class where there are two; ECE is the expected calibration error",
    "number": "RMSE is the root of the mean squared error, MAE the mean absolute error, bias the mean of predicted "
    "minus true; R2 is the share of the variance that is explained",
    "survival": "The C-index is Harrell's, over the pairs of people of one site: 0.5 is chance, 1 a right order of all",
    "reconstruction": "Errors are mean squared errors of the features; ROC AUC and average precision (AP) say how well "
    "the error tells anomalies from normal examples",
}
"""What the names of a table stand for."""


def main_figure(results: Results) -> MainFigure:
    """Return the figure by which this study's models are compared."""
    return _MAIN[results.target]


def main_name(results: Results) -> str:
    """Return its name for people."""
    return NAMES[main_figure(results)]


def main_value(results: Results, scores: Scores | None) -> float | None:
    """Return its value."""
    value: float | None = None if scores is None else getattr(scores, main_figure(results))
    return value


def write_main(results: Results, value: float | None) -> str:
    """Write a value of it; a number with its unit."""
    return write_figure(results, main_figure(results), value)


def bare_main(results: Results, value: float | None) -> str:
    """Write a value of it without its unit."""
    return notation.MISSING if value is None else write(main_figure(results), value)


def main_unit(results: Results) -> str:
    """Return the unit of it; empty where it has none."""
    return results.unit if main_figure(results) == "rmse" else ""


def write_figure(results: Results, figure: VerdictFigure, value: float | None) -> str:
    """Write a figure that models are compared by; a number with its unit."""
    if value is None:
        return notation.MISSING
    unit = f" {results.unit}" if results.unit and figure == "rmse" else ""
    return write(figure, value) + unit


def written_gain(against: WorstAgainstLocal) -> str:
    """Write what a site gained by taking part, signed: positive is better, also where less of the figure is."""
    if against.figure == "accuracy":
        return notation.points(against.difference)
    sign = "+" if against.difference > 0 else notation.MINUS if against.difference < 0 else ""
    if against.figure in ("rmse", "reconstruction_error"):
        return sign + notation.significant(abs(against.difference), 3)
    return sign + write(against.figure, abs(against.difference))


def unit_of_gain(results: Results, against: WorstAgainstLocal) -> str:
    """Return the unit of what ``written_gain`` writes; empty where it has none."""
    if against.figure == "accuracy":
        return "points"
    return results.unit if against.figure == "rmse" else ""


def written_main(results: Results, scores: Scores | None) -> str:
    """Write the main figure of some scores."""
    return write_main(results, main_value(results, scores))


def written_interval(results: Results, scores: Scores) -> str:
    """Write the 95 % interval of the main figure; empty where there is none."""
    ends = scores.intervals.get(main_figure(results))
    return "" if ends is None else f"{bare_main(results, ends[0])} to {write_main(results, ends[1])}"
