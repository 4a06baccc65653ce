"""Curves over the rounds: the model that comes into round ``r`` has been trained for ``r - 1`` and is drawn there."""

from collections.abc import Iterator
from typing import Literal

from hansa_server.report import columns, notation
from hansa_server.report.charts import Point, Series, line_chart
from hansa_server.report.protection import has_noised_counts, noise_of
from hansa_server.results import Results, Summary

AXIS = "rounds of training"
Figure = Literal[
    "weighted_mean_accuracy",
    "site_mean_accuracy",
    "worst_site_accuracy",
    "weighted_mean_loss",
    "weighted_mean",
    "site_mean",
    "worst",
]


def accuracy_curves(results: Results, width: float) -> str:
    """Draw validation accuracy: weighted mean, site mean, worst site; what was not measured is left out."""
    drawn = _measured(
        Series(name="Weighted mean", points=_validated(results, "weighted_mean_accuracy"), style="first"),
        Series(name="Site mean", points=_validated(results, "site_mean_accuracy"), style="second"),
        Series(name="Worst site", points=_validated(results, "worst_site_accuracy"), style="third"),
    )
    return line_chart(
        f"Validation accuracy of the shared model over the rounds: {_listed(drawn)}",
        drawn,
        width=width,
        x_label=AXIS,
        write=notation.percent,
        write_tick=lambda share: f"{100 * share:g}%",
        highest=1.0,
    )


def main_curves(results: Results, width: float) -> str:
    """Draw what models are compared by on validation splits; see ``accuracy_curves``."""
    if results.target == "classes":
        return accuracy_curves(results, width)
    drawn = _measured(
        Series(name="Over all examples", points=_validated(results, "weighted_mean"), style="first"),
        Series(name="Site mean", points=_validated(results, "site_mean"), style="second"),
        Series(name="Worst site", points=_validated(results, "worst"), style="third"),
    )
    return line_chart(
        f"Validation {columns.main_name(results)} of the shared model over the rounds: {_listed(drawn)}",
        drawn,
        width=width,
        x_label=AXIS,
        write=lambda value: columns.write_main(results, value),
        write_tick=lambda value: f"{value:g}",
    )


def has_validation(results: Results) -> bool:
    """Tell whether any model was judged on validation examples."""
    return any(summary.overall_value is not None for _, summary in _summaries(results))


def loss_curves(results: Results, width: float) -> str:
    """Draw training and validation loss, both weighted means over the sites; empty where no losses left them."""
    if has_noised_counts(results):
        return ""
    drawn = _measured(
        *(
            # of a reconstruction it is the error that is drawn already, on another scale than what models minimise
            [Series(name="Validation", points=_validated(results, "weighted_mean_loss"), style="first")]
            if results.target != "reconstruction"
            else []
        ),
        Series(
            name="Training",
            points=tuple(Point(x=entry.round, y=entry.train_loss) for entry in results.rounds),
            style="third",
        ),
    )
    return line_chart(
        f"Loss of the shared model over the rounds: {_listed(drawn)}",
        drawn,
        width=width,
        x_label=AXIS,
        write=notation.loss,
        write_tick=lambda loss: f"{loss:g}",
        from_zero=True,
    )


def seconds_curve(results: Results, width: float) -> str:
    """Draw how long each round took, and its slowest site where the sites tell their times."""
    whole = Series(
        name="Whole round",
        points=tuple(Point(x=entry.round, y=entry.seconds) for entry in results.rounds),
        style="first",
    )
    slowest = Series(
        name="Slowest site",
        points=tuple(
            Point(
                x=entry.round,
                y=max((site.seconds for site in entry.sites), default=None),
                note=max(entry.sites, key=lambda site: site.seconds).site if entry.sites else "",
            )
            for entry in results.rounds
        ),
        style="third",
    )
    untold = noise_of(results) is not None  # times depend on the data, and stay at the sites as the counts do
    return line_chart(
        "Seconds of each round" if untold else "Seconds of each round, and of its slowest site",
        (whole,) if untold else (whole, slowest),
        width=width,
        x_label="round",
        write=lambda seconds: notation.MISSING if seconds is None else notation.duration(seconds),
        write_tick=lambda seconds: f"{seconds:g} s",
        from_zero=True,
    )


def bytes_curve(results: Results, width: float) -> str:
    """Draw the payload of each round, from and to the sites."""
    return line_chart(
        "Payload of each round in bytes, from the sites and to the sites",
        (
            Series(
                name="From the sites",
                points=tuple(Point(x=entry.round, y=float(entry.bytes_up)) for entry in results.rounds),
                style="first",
            ),
            Series(
                name="To the sites",
                points=tuple(Point(x=entry.round, y=float(entry.bytes_down)) for entry in results.rounds),
                style="third",
            ),
        ),
        width=width,
        x_label="round",
        write=lambda num_bytes: notation.MISSING if num_bytes is None else notation.size(num_bytes),
        write_tick=notation.size,
        from_zero=True,
    )


def _measured(*series: Series) -> tuple[Series, ...]:
    return tuple(line for line in series if any(point.y is not None for point in line.points))


def _listed(series: tuple[Series, ...]) -> str:
    """Name the lines in a sentence: ``Weighted mean, site mean and worst site`` in lower case."""
    names = [line.name.lower() for line in series]
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _validated(results: Results, figure: Figure) -> tuple[Point, ...]:
    return tuple(
        Point(
            x=rounds,
            y=getattr(summary, figure),
            note=(summary.worst_site or "") if figure in ("worst_site_accuracy", "worst") else "",
        )
        for rounds, summary in _summaries(results)
    )


def _summaries(results: Results) -> Iterator[tuple[int, Summary]]:
    for entry in results.rounds:
        yield entry.round - 1, entry.incoming
    if results.final is not None and results.rounds:
        yield results.rounds[-1].round, results.final.validation
