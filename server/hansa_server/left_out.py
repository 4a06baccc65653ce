"""Generalisation to a site that was not there: it trains in no round, and the last model is tested on all its data."""

from collections.abc import Sequence
from dataclasses import dataclass

from hansa_common.errors import StudyFailed, UsageError
from hansa_common.messages import Evaluated, EvaluateTask, Message, Opened
from hansa_common.metrics import Counts
from hansa_common.plan import StudyPlan
from hansa_server.closing import LastModel
from hansa_server.exchange import problem_of
from hansa_server.panel import Panel


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """The site that was left out, and how to reach it."""

    opened: Opened
    node: int


def name_of(plan: StudyPlan) -> str | None:
    """Return the name of the site that the plan leaves out."""
    return plan.simulation.leave_out if plan.simulation is not None else None


def taking_part(plan: StudyPlan, names: Sequence[str]) -> tuple[str, ...]:
    """Return the sites that take part in the rounds.

    Args:
        plan: The study.
        names: Of all simulated sites.

    Raises:
        UsageError: The plan leaves out a site that there is not, or the only one.
    """
    absent = name_of(plan)
    if absent is None:
        return tuple(names)
    if absent not in names:
        raise UsageError(
            f"simulation.leave_out: there is no site '{absent}'.",
            advice=f"The sites are {', '.join(names[:20])}{' ...' if len(names) > 20 else ''}.",  # noqa: PLR2004
        )
    if len(names) == 1:
        raise UsageError("simulation.leave_out: it is the only site, and nobody would be left to train.")
    return tuple(name for name in names if name != absent)


def left_out_counts(panel: Panel, left_out: LeftOut | None, last: LastModel) -> Counts | None:
    """Have the site that was left out test the last model on all its examples; ``None`` where there is no such site.

    Raises:
        StudyFailed: It could not.
    """
    if left_out is None:
        return None
    header = EvaluateTask(plan_digest=panel.digest, subject="left_out", prepared=last.prepared)
    for answer in panel.ask_nodes([(left_out.node, Message(header=header, vector=last.parameters))]):
        if answer.message and isinstance(answer.message.header, Evaluated) and "test" in answer.message.counts:
            return answer.message.counts["test"]
        raise StudyFailed(f"{left_out.opened.site}, which was left out, could not be tested: {problem_of(answer)}")
    raise RuntimeError("An exchange yields an answer for each request.")
