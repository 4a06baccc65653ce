"""The clipping bound of a round, where the plan has it move: from what the rounds before it released.

Andrew, Thakkar, McMahan, Ramaswamy: Differentially Private Learning with Adaptive Clipping. NeurIPS 2021, algorithm 1.
The bounds are released like the models, so they stand in the results, and a resumed study reads them there.
"""

from collections.abc import Iterable, Sequence

from hansa_common.plan import StudyPlan
from hansa_common.privacy import Keystream
from hansa_common.protection import adaptive_clipping
from hansa_server.results import RoundResult
from hansa_server.rounds import Accepted


def moving_bound(plan: StudyPlan, rounds: Sequence[RoundResult]) -> float | None:
    """Return the bound of the round after these; ``None`` where the plan's own holds throughout."""
    noised = plan.privacy.differential
    if noised is None or noised.adaptive is None:
        return None
    return (rounds[-1].next_clipping_bound if rounds else None) or noised.clipping_bound


def at_bound(plan: StudyPlan, bound: float | None) -> StudyPlan:
    """Return the plan with another clipping bound; itself where there is none."""
    noised = plan.privacy.differential
    if bound is None or noised is None:
        return plan
    privacy = plan.privacy.model_copy(update={"differential": noised.model_copy(update={"clipping_bound": bound})})
    return plan.model_copy(update={"privacy": privacy})


def moved(plan: StudyPlan, bound: float | None, updates: Iterable[Accepted]) -> dict[str, float]:
    """Return the bound of a round and the next one's, as they stand in its result; nothing where it does not move.

    Args:
        plan: The study.
        bound: Of the round.
        updates: Those that count.
    """
    adaptive = adaptive_clipping(plan)
    if adaptive is None or bound is None:
        return {}
    told = [1 if update.header.was_within else -1 for update in updates]
    total = adaptive.add_noise(sum(told), Keystream())
    return {"clipping_bound": bound, "next_clipping_bound": adaptive.next_bound(bound, total, sites=len(told))}
