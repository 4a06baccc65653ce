"""The page of an audit of leaks: what attacks got out of a study's updates, without and with protection.

Names come from other people: the template escapes them, and pictures are PNG files that this machine made.
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass

from hansa_common.leakage import Leakage, Picture, Reconstruction, Setting
from hansa_server.report import notation
from hansa_server.report.charts.line import Point, Series, line_chart
from hansa_server.report.notation import MISSING
from hansa_server.report.templates import make_environment

WIDE, NARROW = 560.0, 340.0  # px
GUESSING = 0.52
"""An area under the ROC curve up to here is no better than guessing for any practical purpose."""

_ENVIRONMENT = make_environment()
_ENVIRONMENT.filters |= {
    "percent": notation.percent,
    "count": notation.count,
    "plural": notation.plural,
    "moment": notation.moment,
    "duration": notation.duration,
}
_SETTINGS: dict[Setting, str] = {
    "batch_1": "One training step on one example of each site (worst case)",
    "batch_4": "One training step on four examples of each site (worst case)",
    "round": "A whole round, trained as the study says",
    "matching": "One training step on one example of each site, the study's own model",
}
_ATTACKS: dict[str, str] = {
    "batch_4": "One step on four examples, inverted exactly",
    "matching": "One step on one example, the study's own model, by matching gradients",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One figure, without and with protection."""

    name: str
    unprotected: str
    protected: str
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Strip:
    """The pictures of one attack."""

    name: str
    pictures: tuple[tuple[str, str, str, str, str], ...]
    """Original, without, its ratio, with, its ratio; pictures as data URLs, empty where there is none."""


def render(leakage: Leakage, pictures: Sequence[Picture]) -> str:
    """Return ``audit.html``.

    Args:
        leakage: What was measured.
        pictures: Originals and reconstructions, of data on this machine.
    """
    return _ENVIRONMENT.get_template("leakage.html.jinja").render(
        leakage=leakage,
        status="failed" if findings(leakage) or not leakage.asked_for else "completed",
        outcome=outcome(leakage),
        sentences=sentences(leakage),
        findings=findings(leakage),
        rows=rows(leakage),
        strips=_strips(pictures),
        curves=[_curve(leakage, width) for width in (WIDE, NARROW)],
        missing=MISSING,
    )


def outcome(leakage: Leakage) -> str:
    """Return the verdict in a few words."""
    if not leakage.asked_for:
        return "The plan asks for no protection"
    return "The protection did not hold everywhere" if findings(leakage) else "The protection held in what was tried"


def findings(leakage: Leakage) -> list[str]:
    """Return what got through the protection, in plain sentences; none where nothing did."""
    side = leakage.protected
    found = [
        f"{_SETTINGS[entry.setting]}: {_of(entry)} could still be reconstructed{_whose(leakage)}."
        for entry in side.reconstructions
        if entry.recovered > entry.by_chance
    ]
    if side.membership.low > GUESSING:
        found.append(
            "From the last model it can still be told better than by guessing who was trained on "
            f"(area {side.membership.auc:.3f}, 95% interval {side.membership.low:.3f} to {side.membership.high:.3f})."
        )
    if leakage.claimed_epsilon is not None and side.canaries.epsilon > leakage.claimed_epsilon:
        found.append(
            f"The canaries show an epsilon of at least {side.canaries.epsilon:.2f}, more than the "
            f"{leakage.claimed_epsilon:g} that the plan claims: the guarantee is broken. Report this as a fault."
        )
    elif leakage.claimed_epsilon is None and side.canaries.epsilon > 0:
        found.append(
            "Single examples leave a trace: canaries show that any epsilon would have to be at least "
            f"{side.canaries.epsilon:.2f}. Nothing in this protection limits it."
        )
    return found


def sentences(leakage: Leakage) -> list[str]:
    """Return the verdict for a data steward."""
    bare = leakage.unprotected
    worst = [entry for entry in bare.reconstructions if entry.setting in ("batch_1", "batch_4")]
    whole = [entry for entry in bare.reconstructions if entry.setting == "round"]
    parts = [
        "Without protection, whoever reads the sites' updates got back "
        f"{_of_all(worst)} when a site trained a single step on one or four of them"
        + "".join(f", and {_of(entry)} from a whole round as this study trains" for entry in whole)
        + "."
    ]
    where = "With the plan's protection" if leakage.asked_for else "With secure aggregation, which the plan lacks,"
    guarded = [entry for entry in leakage.protected.reconstructions if entry.setting in ("batch_1", "batch_4")]
    whole = [entry for entry in leakage.protected.reconstructions if entry.setting == "round"]
    parts.append(f"{where} it is {_of_all(guarded)}" + "".join(f" and {_of(entry)}" for entry in whole) + ".")
    return parts


def rows(leakage: Leakage) -> list[Row]:
    """Return the table without / with protection."""
    bare, guarded = leakage.unprotected, leakage.protected
    table = [
        Row(
            name=f"{_SETTINGS[first.setting]}, {first.model}",
            unprotected=_recovered(first),
            protected=_recovered(second),
            note=f"by chance {first.by_chance} without, {second.by_chance} with",
        )
        for first, second in zip(bare.reconstructions, guarded.reconstructions, strict=True)
    ]
    members = (bare.membership, guarded.membership)
    areas = [f"{side.auc:.3f} ({side.low:.3f} to {side.high:.3f})" for side in members]
    table += [
        Row(
            name="Who was trained on: area under the ROC curve, 95% interval",
            unprotected=areas[0],
            protected=areas[1],
            note="guessing is 0.5",
        ),
        Row(
            name="Who was trained on: found with 1% false alarms",
            unprotected=notation.percent(members[0].at_few),
            protected=notation.percent(members[1].at_few),
            note="guessing is 1%",
        ),
        Row(
            name="Canaries: epsilon is at least",
            unprotected=_bound(leakage, 0),
            protected=_bound(leakage, 1),
            note="at 95% confidence"
            + (f"; claimed is {leakage.claimed_epsilon:g}" if leakage.claimed_epsilon is not None else ""),
        ),
    ]
    return table


def _whose(leakage: Leakage) -> str:
    return " from the sum, without knowing whose they are" if leakage.sums_only else ""


def _bound(leakage: Leakage, side: int) -> str:
    canaries = (leakage.unprotected, leakage.protected)[side].canaries
    return f"{canaries.epsilon:.2f} ({canaries.correct} of {canaries.guesses} guesses right)"


def _of(entry: Reconstruction) -> str:
    return f"{notation.count(entry.recovered)} of {notation.plural(entry.examples, 'example')}"


def _of_all(entries: Sequence[Reconstruction]) -> str:
    examples = sum(entry.examples for entry in entries)
    return f"{notation.count(sum(entry.recovered for entry in entries))} of {notation.plural(examples, 'example')}"


def _recovered(entry: Reconstruction) -> str:
    best = f"; best {entry.best:.0f} dB" if entry.best is not None else ""
    return f"{notation.count(entry.recovered)} of {notation.count(entry.examples)}{best}"


def _curve(leakage: Leakage, width: float) -> str:
    def points(values: Sequence[float]) -> tuple[Point, ...]:
        return tuple(Point(x=percent, y=value) for percent, value in enumerate(values))

    curves = (leakage.unprotected.membership, leakage.protected.membership)
    return line_chart(
        "Share of training examples found, by the share of others taken for such",
        [
            Series(name=f"Without, area {curves[0].auc:.3f}", points=points(curves[0].curve), style="first"),
            Series(name=f"With, area {curves[1].auc:.3f}", points=points(curves[1].curve), style="third"),
            Series(name="Guessing", points=points([percent / 100 for percent in range(101)]), style="second"),
        ],
        width=width,
        x_label="False alarms, %",
        write=notation.percent,
        write_tick=lambda value: f"{100 * value:.0f}%",
        from_zero=True,
        highest=1.0,
        last_values=False,
    )


def _strips(pictures: Sequence[Picture]) -> list[Strip]:
    attacks = dict.fromkeys(picture.attack for picture in pictures)
    return [
        Strip(
            name=_ATTACKS.get(attack, attack),
            pictures=tuple(
                (
                    _url(picture.original),
                    _url(picture.unprotected),
                    _decibels(picture.unprotected_ratio),
                    _url(picture.protected),
                    _decibels(picture.protected_ratio),
                )
                for picture in pictures
                if picture.attack == attack
            ),
        )
        for attack in attacks
    ]


def _decibels(ratio: float | None) -> str:
    return "nothing" if ratio is None else f"{ratio:.0f} dB"


def _url(content: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(content).decode()}" if content else ""
