"""The closing exchange: counts of the last model, site by site or under masks."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

from hansa_common.errors import MessageError, StudyFailed
from hansa_common.messages import Evaluated, EvaluateTask, Message, Opened
from hansa_common.metrics import Counts, CountsKind
from hansa_common.parameters import Vector
from hansa_common.plan import StudyPlan
from hansa_common.prepared import Prepared
from hansa_common.protection import (
    counts_leave,
    evaluated_names,
    num_evaluation_sums,
    read_evaluation_sums,
    weighs_costs,
)
from hansa_server.exchange import by_basis, problem_of
from hansa_server.figures import merge
from hansa_server.masked import Job, MaskedRounds, MaskedSum
from hansa_server.panel import Panel

_FAILED = "The last model could not be evaluated"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Closing:
    """Counts of the last model.

    Attributes:
        validation: By site, where the sites' own counts leave; so is ``test``.
        test: On the test splits.
        overall: Validation and test of all sites together; ``None`` where no counts leave.
        personal: Of each site's own model on its test split, where the plan personalises and counts leave.
        ensemble: Of the last versions as one on the test splits, by site.
        together: The same of all sites together; ``None`` where the plan has no ensemble or lets no such counts out.
        coordinator: On the coordinator's own test set, where there is one.
        left_out: On all data of the site that took part in no round, where there is one.
        seconds: Of the exchange.
        evaluation_seconds: The sites' own time, added up.
    """

    validation: Mapping[str, Counts]
    test: Mapping[str, Counts]
    overall: tuple[Counts, Counts] | None
    evaluation_seconds: float
    personal: Mapping[str, Counts] = field(default_factory=dict)
    ensemble: Mapping[str, Counts] = field(default_factory=dict)
    together: Counts | None = None
    coordinator: Counts | None = None
    left_out: Counts | None = None
    seconds: float = 0.0

    @classmethod
    def of_sites(cls, counted: Mapping[str, Mapping[str, Counts]], *, evaluation_seconds: float) -> Self:
        """Return what each site counted for itself; nothing where no counts leave."""
        validation, test, ensemble = (_named(counted, name) for name in ("validation", "test", "ensemble"))
        return cls(
            validation=validation,
            test=test,
            overall=(merge(validation), merge(test)) if test else None,
            evaluation_seconds=evaluation_seconds,
            personal=_named(counted, "personal"),
            ensemble=ensemble,
            together=merge(ensemble) if ensemble else None,
        )

    @classmethod
    def of_sum(cls, total: MaskedSum, plan: StudyPlan, kind: CountsKind) -> Self:
        """Return what the sites counted together, and by itself what all of them let out."""
        summed: Mapping[str, Counts] = {}
        try:
            summed = read_evaluation_sums(total.sums, plan, kind)
        except MessageError as error:
            _log.warning("The sites' counts add up to nothing possible; one of them lied: %s", error)
        shown = total.shown if len(total.shown) == len(total.survivors) else {}
        return cls(
            validation=_named(shown, "validation"),
            test=_named(shown, "test"),
            overall=(summed["validation"], summed["test"]) if summed else None,
            personal=_named(shown, "personal"),
            ensemble=_named(shown, "ensemble"),
            together=summed.get("ensemble"),
            evaluation_seconds=sum(header.seconds for header in total.headers.values()),
        )


def _named(counted: Mapping[str, Mapping[str, Counts]], name: str) -> dict[str, Counts]:
    return {site: counts[name] for site, counts in counted.items() if name in counts}


def are_declared(opened: Opened, counts: Mapping[str, Counts], plan: StudyPlan, kind: CountsKind) -> bool:
    """Tell whether a site's counts are those that the plan lets out, of the splits that it declared."""
    privacy, own = plan.privacy, plan.personalisation is not None
    if privacy.differential is not None:
        return set(counts) == ({"validation", "test"} if counts_leave(privacy) else set())
    return (
        set(counts) == {*evaluated_names(plan), *(["personal"] if own else [])}
        and counts["validation"].num_examples == opened.validation
        and counts["validation"].has_histograms == weighs_costs(kind)
        and all(counts[name].num_examples == opened.test for name in counts if name != "validation")
        and all(
            counts[name].has_histograms == kind.zero(histograms=True).has_histograms
            for name in counts
            if name != "validation"
        )
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LastModel:
    """What is evaluated at the end.

    Attributes:
        parameters: ``float32 [P]``.
        prepared: What every site does to its features before the model sees them.
        basis: The last round in which each site's update was counted.
    """

    parameters: Vector = field(repr=False)
    prepared: Prepared | None
    basis: Mapping[str, int]


def close(panel: Panel, last: LastModel, versions: Vector | None = None) -> Closing:
    """Have every site evaluate the last model, and take what it may tell of that.

    Args:
        panel: Whom to ask.
        last: The model.
        versions: ``float32 [M * P]``, that model and those before it, which are evaluated as one too.

    Raises:
        StudyFailed: Too few could.
    """
    header = EvaluateTask(plan_digest=panel.digest, prepared=last.prepared)
    counted: dict[str, Mapping[str, Counts]] = {}
    failed: dict[str, str] = {}
    seconds = 0.0
    for site, answer in panel.ask(by_basis(Message(header=header, vector=_tested(last, versions)), last.basis)):
        message = answer.message
        if not message or not isinstance(message.header, Evaluated):
            failed[site] = problem_of(answer)
        elif not are_declared(panel.opened[site], message.counts, panel.plan, panel.kind):
            failed[site] = "It sent other counts than those of the splits that it declared."
        else:
            counted[site] = message.counts
            seconds += message.header.seconds
    panel.need(len(counted), failed, _FAILED)
    return Closing.of_sites(counted, evaluation_seconds=seconds)


def _tested(last: LastModel, versions: Vector | None) -> Vector:
    return last.parameters if versions is None else versions


def close_masked(panel: Panel, masked: MaskedRounds, last: LastModel, versions: Vector | None = None) -> Closing:
    """Sum the counts of the last model under masks, as one more round without an update; see ``close``.

    Raises:
        StudyFailed: Too few sites could evaluate it, or the round stays void.
    """
    number = masked.number_after(1)
    job = Job(
        number=number,
        parameters=_tested(last, versions),
        size=0,
        counts=num_evaluation_sums(panel.plan, panel.kind),
        basis=last.basis,
        task=lambda attempt, _following: EvaluateTask(
            plan_digest=panel.digest, round=number, attempt=attempt, prepared=last.prepared
        ),
        is_declared=lambda site, counts: are_declared(panel.opened[site], counts, panel.plan, panel.kind),
    )
    total = masked.sum(job)
    panel.need(len(total.survivors), total.missing, _FAILED)
    return Closing.of_sum(total, panel.plan, panel.kind)


def coordinator_counts(panel: Panel, last: LastModel) -> Counts | None:
    """Return the counts on the test set that no site has, where a simulation keeps one; any node can make them.

    Raises:
        StudyFailed: It could not be evaluated.
    """
    if panel.plan.simulation is None or not panel.plan.simulation.holdout:
        return None
    header = EvaluateTask(plan_digest=panel.digest, subject="coordinator", prepared=last.prepared)
    answer = panel.ask_first(Message(header=header, vector=last.parameters))
    if answer.message and isinstance(answer.message.header, Evaluated):
        return answer.message.counts.get("test")
    raise StudyFailed(f"The coordinator's test set could not be evaluated: {problem_of(answer)}")
