"""Why the last model answers as it does: sums of attributions from the sites, site by site or under masks.

An explanation that does not come about never ends a study: who is missing in it, and why, stands in the results.

Shapes: ``K`` classes, ``G`` groups of inputs.
"""

import logging
from collections.abc import Mapping

import numpy as np

from hansa_common.errors import MessageError, StudyFailed
from hansa_common.explain_plan import ExplainPlan, num_groups, scores_of, views_of
from hansa_common.messages import Explained, ExplainTask, Message, Sums
from hansa_common.metrics import Importance, num_importance_sums
from hansa_common.plan import StudyPlan
from hansa_server.closing import LastModel
from hansa_server.exchange import problem_of
from hansa_server.masked import Job, MaskedRounds
from hansa_server.panel import Panel
from hansa_server.results import Explanation, ExplanationView

_log = logging.getLogger(__name__)


def explain_model(panel: Panel, last: LastModel, masked: MaskedRounds | None, folder: str = "") -> Explanation | None:
    """Return what the sites found; ``None`` where the plan does not ask.

    Args:
        panel: The sites that opened the study.
        last: The model.
        masked: Conducts masked rounds, where the plan has them.
        folder: Of the run, where the sites are simulated; else empty.
    """
    plan = panel.plan
    explain = plan.evaluation.explain
    if explain is None:
        return None
    header = ExplainTask(plan_digest=panel.digest, prepared=last.prepared, folder=folder)
    if masked is not None:
        total, missing = _sum(plan, explain, last, masked, header)
    else:
        total, missing = _collect(panel, explain, Message(header=header, vector=last.parameters))
    return explanation_of(plan, explain, total, missing)


def _collect(panel: Panel, explain: ExplainPlan, task: Message) -> tuple[Importance, dict[str, str]]:
    plan = panel.plan
    total, missing = _nothing(plan), {}
    for site, answer in panel.ask(task):
        message = answer.message
        header = message.header if message is not None else None
        if message is None or not isinstance(header, Explained) or message.sums is None:
            missing[site] = problem_of(answer)
        elif header.site != site or header.plan_digest != panel.digest:
            missing[site] = "It explained in another site's name, or another plan."
        else:
            try:
                total += _read(plan, message.sums, most=explain.examples)
            except MessageError as error:
                missing[site] = error.message
    return total, missing


def _sum(
    plan: StudyPlan, explain: ExplainPlan, last: LastModel, masked: MaskedRounds, header: ExplainTask
) -> tuple[Importance, dict[str, str]]:
    """Sum as one more round after that of the closing exchange, without an update."""
    number = masked.number_after(2)
    job = Job(
        number=number,
        parameters=last.parameters,
        size=0,
        counts=num_importance_sums(len(scores_of(plan.data)), num_groups(plan.data)),
        task=lambda attempt, _next: header.model_copy(update={"round": number, "attempt": attempt}),
    )
    try:
        found = masked.sum(job)
        return _read(plan, found.sums, most=explain.examples * len(found.survivors)), dict(found.missing)
    except (StudyFailed, MessageError) as error:
        _log.warning("the last model is not explained: %s", error)
        return _nothing(plan), {"all sites": error.message}


def _nothing(plan: StudyPlan) -> Importance:
    return Importance.zero(len(scores_of(plan.data)), num_groups(plan.data))


def _read(plan: StudyPlan, sums: Sums, *, most: int) -> Importance:
    return Importance.from_sums(sums, classes=len(scores_of(plan.data)), groups=num_groups(plan.data), most=most)


def explanation_of(plan: StudyPlan, explain: ExplainPlan, total: Importance, missing: Mapping[str, str]) -> Explanation:
    """Return what ``metrics.json`` says; classes below the plan's minimum are left out once more.

    Args:
        plan: The study.
        explain: Its section.
        total: Over the sites.
        missing: Who is not in it, and why.
    """
    total = total.suppressed(explain.minimum_examples)
    absolute, mean = total.mean_absolute(), total.mean()
    views, start = [], 0
    for view in views_of(plan.data):
        part = slice(start, start + len(view.labels))
        start = part.stop
        views.append(
            ExplanationView(
                name=view.name,
                rows=view.rows,
                labels=view.labels,
                importance=_rows(absolute[:, part]),
                direction=_rows(mean[:, part]),
            )
        )
    return Explanation(
        method=explain.method,
        split=explain.split,
        minimum_examples=explain.minimum_examples,
        scores=scores_of(plan.data),
        explained=tuple(total.examples.tolist()),
        views=tuple(views),
        unexplained=dict(sorted(missing.items())),
    )


def _rows(values: "np.ndarray[tuple[int, ...], np.dtype[np.float64]]") -> tuple[tuple[float, ...] | None, ...]:
    """Return a row a class; ``None`` for a class without examples."""
    return tuple(None if np.isnan(row).any() else tuple(row.tolist()) for row in values)
