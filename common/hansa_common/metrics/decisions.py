"""What a classifier of two classes decides at a threshold: costs, and how groups of people fare.

Scores of the second class are counted by a grid of thresholds, equally spaced in the logit, with 1/2 in the middle. So
a threshold that is chosen afterwards, from all sites' validation examples, has exact counts on their test examples,
over all and for each group, and no second question to the sites is needed.

Evolution: never change a number of this file. Counts of other grids cannot be merged.

Shapes: ``D = DECISION_BINS``, ``G`` groups, ``R = 1 + G`` rows: everybody, then the groups.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from hansa_common.metrics.bins import Floats, Integers

_LOGITS: Final = np.linspace(-16.0, 16.0, 513)
THRESHOLDS: Final[npt.NDArray[np.float64]] = 1.0 / (1.0 + np.exp(-_LOGITS))
DECISION_BINS: Final = len(THRESHOLDS) + 1
HALF: Final = 256
"""Which threshold is 1/2."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """What becomes of some people at one threshold; positive is the second class."""

    true_positives: int
    false_positives: int
    false_negatives: int
    true_negatives: int

    @property
    def num_examples(self) -> int:
        """How many people."""
        return self.true_positives + self.false_positives + self.false_negatives + self.true_negatives

    @property
    def accuracy(self) -> float | None:
        """Share of right decisions."""
        return _share(self.true_positives + self.true_negatives, self.num_examples)

    @property
    def selection_rate(self) -> float | None:
        """Share that is taken for positive."""
        return _share(self.true_positives + self.false_positives, self.num_examples)

    @property
    def true_positive_rate(self) -> float | None:
        """Share of the positive that is taken for positive."""
        return _share(self.true_positives, self.true_positives + self.false_negatives)

    @property
    def false_positive_rate(self) -> float | None:
        """Share of the negative that is taken for positive."""
        return _share(self.false_positives, self.false_positives + self.true_negatives)

    def cost(self, *, false_negative: float, false_positive: float) -> float:
        """Return what the wrong decisions cost."""
        return self.false_negatives * false_negative + self.false_positives * false_positive


@dataclass(frozen=True, slots=True, kw_only=True)
class Fairness:
    """How the groups of one column fare.

    Attributes:
        groups: By value of the column; ``None`` where there are too few people to say.
        parity_gap: Largest difference of selection rates (demographic parity difference).
        odds_gap: The larger of the largest differences of true-positive and of false-positive rates (equalised odds
            difference; Hardt, Price and Srebro, NeurIPS 2016).
        worst: The group with the lowest accuracy.
    """

    groups: Mapping[str, Decided | None]
    parity_gap: float | None
    odds_gap: float | None
    worst: str | None


def decision_histograms(scores: Floats, labels: Integers, members: npt.NDArray[np.bool_]) -> Integers:
    """Count scores by threshold.

    Args:
        scores: ``[N]``, probability of the second class.
        labels: ``int64 [N]``, 0 or 1.
        members: ``bool [N, G]``, who is in which group.

    Returns:
        ``int64 [2 R, D]``: rows ``2 r`` and ``2 r + 1`` are the first and the second class of row ``r``.
    """
    bins = np.searchsorted(THRESHOLDS, scores, side="right")
    everybody = np.ones((len(labels), 1), dtype=np.bool_)
    rows = np.concatenate([everybody, members], axis=1).T
    parts = [np.bincount(bins[row & (labels == label)], minlength=DECISION_BINS) for row in rows for label in (0, 1)]
    return np.stack(parts).astype(np.int64)


def decide_at(decisions: Integers, row: int, threshold: int) -> Decided:
    """Return what becomes of the people of one row at ``THRESHOLDS[threshold]``: it or more is positive."""
    negatives, positives = decisions[2 * row], decisions[2 * row + 1]
    return Decided(
        true_positives=int(positives[threshold + 1 :].sum()),
        false_positives=int(negatives[threshold + 1 :].sum()),
        false_negatives=int(positives[: threshold + 1].sum()),
        true_negatives=int(negatives[: threshold + 1].sum()),
    )


def cheapest_threshold(decisions: Integers, *, false_negative: float, false_positive: float) -> int:
    """Return the threshold at which everybody's wrong decisions cost least.

    Of several it is the nearest to the one that would be right for exact probabilities, ``false_positive /
    (false_positive + false_negative)`` (Elkan: The Foundations of Cost-Sensitive Learning, IJCAI 2001, equation 2).
    """
    missed = decisions[1].cumsum()[:-1]  # positive below each threshold
    alarmed = decisions[0].sum() - decisions[0].cumsum()[:-1]
    costs = missed * false_negative + alarmed * false_positive
    cheapest = np.flatnonzero(costs == costs.min())
    ideal = false_positive / (false_positive + false_negative)
    return int(cheapest[np.abs(THRESHOLDS[cheapest] - ideal).argmin()])


def fairness(decisions: Integers, first: int, names: Sequence[str], threshold: int, *, minimum: int) -> Fairness:
    """Compare the groups of one column at one threshold.

    Args:
        decisions: ``int64 [2 R, D]``.
        first: Row of the column's first group.
        names: The column's values.
        threshold: As ``decide_at``.
        minimum: A group of fewer people is left out.
    """
    groups: dict[str, Decided | None] = {}
    for row, name in enumerate(names, start=first):
        found = decide_at(decisions, row, threshold)
        groups[name] = found if found.num_examples >= max(1, minimum) else None
    known = {name: group for name, group in groups.items() if group is not None}
    true_gap = _gap([group.true_positive_rate for group in known.values()])
    false_gap = _gap([group.false_positive_rate for group in known.values()])
    gaps = [gap for gap in (true_gap, false_gap) if gap is not None]
    return Fairness(
        groups=groups,
        parity_gap=_gap([group.selection_rate for group in known.values()]),
        odds_gap=max(gaps) if gaps else None,
        worst=min(known, key=lambda name: known[name].accuracy or 0.0) if known else None,
    )


def without_small_groups(decisions: Integers, minimum: int) -> Integers:
    """Return the histograms with nothing in the rows of groups that have fewer people than ``minimum``."""
    sizes = decisions.reshape(len(decisions) // 2, -1).sum(axis=1)
    small = sizes < minimum
    small[0] = False
    return np.where(np.repeat(small, 2)[:, None], 0, decisions)


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _gap(rates: Sequence[float | None]) -> float | None:
    found = [rate for rate in rates if rate is not None]
    return max(found) - min(found) if len(found) > 1 else None
