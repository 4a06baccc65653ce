"""What the last model decides: the threshold chosen from all sites' validation examples, costs and groups on test."""

from hansa_common.metrics import ClassificationCounts, Counts
from hansa_common.metrics.decisions import HALF, THRESHOLDS, Decided, cheapest_threshold, decide_at, fairness
from hansa_common.plan import EvaluationPlan
from hansa_server.decision_results import Decisions, DecisionScores, FairnessResult, GroupScores


def decisions_of(plan: EvaluationPlan, validation: Counts, test: Counts) -> Decisions | None:
    """Return what a plan's costs and groups come to; ``None`` where it names neither.

    Args:
        plan: Its section on evaluation.
        validation: Counts of all sites together, with decisions; the threshold is chosen on them.
        test: The same; everything else is computed from them.
    """
    if not isinstance(validation, ClassificationCounts) or not isinstance(test, ClassificationCounts):
        return None
    if validation.decisions is None or test.decisions is None:
        return None
    threshold = HALF
    if plan.cost is not None and validation.num_examples:
        threshold = cheapest_threshold(
            validation.decisions, false_negative=plan.cost.false_negative, false_positive=plan.cost.false_positive
        )
    found, first = [], 1
    for column, names in plan.groups.items():
        compared = fairness(test.decisions, first, names, threshold, minimum=plan.minimum_group)
        first += len(names)
        found.append(
            FairnessResult(
                column=column,
                groups=tuple(_group(name, group) for name, group in compared.groups.items()),
                demographic_parity_gap=compared.parity_gap,
                equalised_odds_gap=compared.odds_gap,
                worst_group=compared.worst,
            )
        )
    return Decisions(
        chosen=_decision(plan, decide_at(test.decisions, 0, threshold), threshold),
        at_half=_decision(plan, decide_at(test.decisions, 0, HALF), HALF),
        fairness=tuple(found),
        minimum_group=plan.minimum_group,
    )


def _decision(plan: EvaluationPlan, decided: Decided, threshold: int) -> DecisionScores:
    cost = plan.cost
    return DecisionScores(
        threshold=float(THRESHOLDS[threshold]),
        true_positives=decided.true_positives,
        false_positives=decided.false_positives,
        false_negatives=decided.false_negatives,
        true_negatives=decided.true_negatives,
        cost=decided.cost(false_negative=cost.false_negative, false_positive=cost.false_positive) if cost else None,
    )


def _group(name: str, group: Decided | None) -> GroupScores:
    return GroupScores(
        group=name,
        num_examples=group.num_examples if group else None,
        accuracy=group.accuracy if group else None,
        selection_rate=group.selection_rate if group else None,
        true_positive_rate=group.true_positive_rate if group else None,
        false_positive_rate=group.false_positive_rate if group else None,
    )
