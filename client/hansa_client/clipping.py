"""Clipping a site's update before it leaves, to a bound that the plan fixes or that moves from round to round."""

from hansa_common.errors import TaskRefused
from hansa_common.messages import Message, TrainTask
from hansa_common.parameters import Vector
from hansa_common.plan import StudyPlan
from hansa_common.privacy import clip_l2
from hansa_common.protection import adaptive_clipping, update_bound


def require_bound(task: Message, plan: StudyPlan) -> None:
    """Return if a task's clipping bound is one that the plan lets it be.

    Raises:
        TaskRefused: The bound does not move and the task names one, or it does and the task names none, one beyond
            those of the plan, or in the first round another than the plan's.
    """
    header = task.header
    if not isinstance(header, TrainTask):
        return
    noised, bound = plan.privacy.differential, header.clipping_bound
    if noised is None or noised.adaptive is None:
        if bound is not None:
            raise TaskRefused("The task brings a clipping bound; the plan does not let it move.")
        return
    if bound is None or not noised.adaptive.least <= bound <= noised.adaptive.most:
        found = "missing" if bound is None else f"{bound:g}"
        raise TaskRefused(
            f"The task's clipping bound is {found}; the plan lets it move between {noised.adaptive.least:g} and "
            f"{noised.adaptive.most:g}."
        )
    if header.round == 1 and bound != noised.clipping_bound:
        raise TaskRefused(f"The first round's clipping bound is {bound:g}; the plan's is {noised.clipping_bound:g}.")


def clip(plan: StudyPlan, header: TrainTask, delta: Vector, *, sites: int) -> tuple[Vector, float | None, bool | None]:
    """Clip an update as the plan, or the task where the bound moves, says.

    Args:
        plan: The study.
        header: Of the task, let through by ``require_bound``.
        delta: ``float32 [P]``, finite.
        sites: That mask together; 0 without masks.

    Returns:
        ``float32 [P]``, the bound, and, where it moves, whether the update was no longer than it before.
    """
    adaptive = adaptive_clipping(plan)
    bound = header.clipping_bound if adaptive else update_bound(plan, sites=sites, dimension=delta.size)
    if bound is None:
        return delta, None, None
    clipped = clip_l2(delta, bound)
    within = adaptive.constrain_sensitivity(clipped.norm_before, bound) == 1 if adaptive else None
    return clipped.vector, bound, within
