"""Membership inference by loss: an example that a model was trained on has a smaller loss than one that it never saw.

Yeom, Giacomelli, Fredrikson, Jha, "Privacy Risk in Machine Learning: Analyzing the Connection to Overfitting", CSF
2018, adversary 2. That a rate at few false alarms says more than an average: Carlini, Chien, Nasr, Song, Terzis,
Tramer, "Membership Inference Attacks From First Principles", IEEE S&P 2022, section III.
"""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
FEW_FALSE_ALARMS = 0.01
_RESAMPLES = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Membership:
    """How well members are told from others.

    Attributes:
        auc: Area under the ROC curve; 0.5 is guessing.
        low: Lower end of its 95 % interval.
        high: Upper end.
        at_few: Share of the members that are found while 1 % of the others are taken for members.
        members: How many.
        others: How many.
        curve: Share of members found at 0, 1, ... 100 % false alarms.
    """

    auc: float
    low: float
    high: float
    at_few: float
    members: int
    others: int
    curve: tuple[float, ...] = field(repr=False)


def area(members: Floats, others: Floats) -> float:
    """Return the probability that a member scores higher than another, ties counted half (Mann and Whitney, 1947)."""
    ordered = np.sort(others)
    below = np.searchsorted(ordered, members, side="left")
    up_to = np.searchsorted(ordered, members, side="right")
    return float((below + up_to).mean() / (2 * len(others)))


def found_at(members: Floats, others: Floats, false_alarms: float) -> float:
    """Return the share of members above the lowest threshold that at most this share of the others exceeds."""
    allowed = int(false_alarms * len(others) + 1e-9)
    if allowed >= len(others):
        return 1.0
    threshold = np.sort(others)[len(others) - 1 - allowed]
    return float((members > threshold).mean())


def attack(members: Floats, others: Floats, *, seed: int) -> Membership:
    """Measure how well scores tell members from others.

    Args:
        members: Scores of examples that were trained on, the higher the likelier a member: minus the loss.
        others: Scores of examples that were not.
        seed: Of the bootstrap (Efron and Tibshirani, 1993, percentile interval, members and others apart).
    """
    rng = np.random.Generator(np.random.Philox(seed))
    areas = [area(rng.choice(members, len(members)), rng.choice(others, len(others))) for _ in range(_RESAMPLES)]
    low, high = np.quantile(areas, (0.025, 0.975))
    return Membership(
        auc=area(members, others),
        low=float(low),
        high=float(high),
        at_few=found_at(members, others, FEW_FALSE_ALARMS),
        members=len(members),
        others=len(others),
        curve=tuple(found_at(members, others, percent / 100) for percent in range(101)),
    )
