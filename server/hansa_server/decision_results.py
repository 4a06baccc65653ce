"""What the last model decides at a threshold, and how groups of people fare: a part of the results."""

from hansa_common.settings import Strict


class DecisionScores(Strict):
    """What becomes of test examples at one threshold: the second class is the positive one."""

    threshold: float
    """A probability of the second class of at least this is taken for positive."""
    true_positives: int
    false_positives: int
    false_negatives: int
    true_negatives: int
    cost: float | None
    """Of all wrong decisions together; ``null`` where the plan names no costs."""


class GroupScores(Strict):
    """How one group fares at the threshold; ``null`` where it has too few people."""

    group: str
    num_examples: int | None
    accuracy: float | None
    selection_rate: float | None
    true_positive_rate: float | None
    false_positive_rate: float | None


class FairnessResult(Strict):
    """The groups of one column beside each other."""

    column: str
    groups: tuple[GroupScores, ...]
    demographic_parity_gap: float | None
    """Largest difference of selection rates."""
    equalised_odds_gap: float | None
    """The larger of the largest differences of true-positive and of false-positive rates."""
    worst_group: str | None
    """With the lowest accuracy."""


class Decisions(Strict):
    """What the last model decides on all sites' test examples, and how groups of people fare."""

    chosen: DecisionScores
    """At the threshold that cost least on all sites' validation examples; at 1/2 where the plan names no costs."""
    at_half: DecisionScores
    fairness: tuple[FairnessResult, ...]
    minimum_group: int
