"""What the server makes of the sites' sums of attributions; the sites are functions."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from hansa_common.errors import StudyFailed
from hansa_common.messages import Explained, ExplainTask, MaskedExplained, Message, Refusal
from hansa_common.metrics import Importance, num_importance_sums
from hansa_common.plan import StudyPlan
from hansa_common.protection import kind_of
from hansa_server.closing import LastModel
from hansa_server.exchange import Answer
from hansa_server.explaining import explain_model
from hansa_server.masked import Job, MaskedSum
from hansa_server.panel import Panel
from hansa_server.results import Explanation

Make = Callable[..., StudyPlan]
SITES = ("a", "b", "c")
EXPLAIN: dict[str, Any] = {"explain": {"method": "integrated_gradients", "examples": 50, "minimum_examples": 10}}
MASKS: dict[str, Any] = {
    "maximum_examples": 2_000,
    "secure_aggregation": {"coordinate_range": 4.0, "cohort": "changing"},
}
MODEL = np.zeros(650, np.float32)


def found(site: str) -> Importance:
    rng = np.random.default_rng(ord(site))
    labels = rng.permutation(np.repeat(np.arange(10), [20, 15, 10, 2, 1, 0, 0, 0, 0, 0]))
    values = rng.exponential(size=(labels.size, 64))
    return Importance.of(values, np.zeros_like(values), labels, 10).suppressed(10)


POOLED = found("a") + found("b") + found("c")


def explained(
    plan: StudyPlan, *, masked: Any = None, **changed: Callable[[Explained], Message | str]
) -> Explanation | None:
    def ask(requests: Sequence[tuple[int, Message]]) -> Iterator[Answer]:
        for node, task in requests:
            site = SITES[node]
            assert isinstance(task.header, ExplainTask)
            header = Explained(plan_digest=plan.digest(), site=site, seconds=1.0)
            reply = changed[site](header) if site in changed else Message(header=header, sums=found(site).to_sums())
            yield Answer(node=node, failure=reply) if isinstance(reply, str) else Answer(node=node, message=reply)

    panel = Panel(
        plan=plan,
        digest=plan.digest(),
        kind=kind_of(plan),
        opened={},
        nodes={site: node for node, site in enumerate(SITES)},
        ask_nodes=ask,
    )
    return explain_model(panel, LastModel(parameters=MODEL, prepared=None, basis={}), masked)


def test_a_study_without_the_section_asks_nobody(make_plan: Make) -> None:
    assert explained(make_plan()) is None


def test_merged_importance_is_the_pooled_one(make_plan: Make) -> None:
    explanation = explained(make_plan(evaluation=EXPLAIN))
    assert explanation is not None
    assert explanation.explained == (60, 45, 30, 0, 0, 0, 0, 0, 0, 0)
    (view,) = explanation.views
    assert (view.name, view.rows, len(view.labels)) == ("features", 0, 64)
    assert view.importance[1] == tuple(POOLED.mean_absolute()[1].tolist())
    assert view.direction[1] == view.importance[1]
    assert view.importance[3:] == (None,) * 7
    assert explanation.unexplained == {}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda _header: "It did not reply.", "did not reply"),
        (lambda _header: Message(header=Refusal(code="task-refused", site="b", reason="No captum.")), "No captum"),
        (
            lambda header: Message(header=header.model_copy(update={"site": "a"}), sums=found("b").to_sums()),
            "another site's name",
        ),
        (
            lambda header: Message(
                header=header.model_copy(update={"plan_digest": "ab" * 32}), sums=np.zeros(9, "<u8")
            ),
            "another plan",
        ),
        (lambda header: Message(header=header, sums=np.zeros(9, np.uint64)), "9 values"),
        (lambda header: Message(header=header, sums=np.full(1290, 2**40, np.uint64)), "claim more than 50"),
    ],
)
def test_a_site_that_fails_or_lies_is_left_out_by_name(
    make_plan: Make, change: Callable[[Explained], Message | str], reason: str
) -> None:
    explanation = explained(make_plan(evaluation=EXPLAIN), b=change)
    assert explanation is not None
    assert explanation.explained[:3] == (40, 30, 20)
    assert set(explanation.unexplained) == {"b"}
    assert reason in explanation.unexplained["b"]


class Masked:
    """Masked rounds that give a sum, or fail."""

    def __init__(self, total: Importance | None, sums: np.ndarray | None = None) -> None:
        self._sums = total.to_sums() if total is not None else sums
        self.job: Job | None = None

    def number_after(self, place: int) -> int:
        return 3 + place

    def sum(self, job: Job) -> MaskedSum:
        self.job = job
        if self._sums is None:
            raise StudyFailed("Round 5 came to nothing 3 times.")
        header = MaskedExplained(plan_digest="ab" * 32, round=5, attempt=1, site="a", seconds=1.0)
        return MaskedSum(
            survivors=("a", "c"),
            vector=np.zeros(0, np.uint32),
            sums=self._sums,
            headers={"a": header, "c": header},
            shown={},
            missing={"b": "It was away."},
            void=(),
        )


def test_under_masks_the_sum_is_a_round_of_its_own_after_the_closing_one(make_plan: Make) -> None:
    masked, plan = Masked(found("a") + found("c")), make_plan(privacy=MASKS, evaluation=EXPLAIN)
    explanation = explained(plan, masked=masked)
    assert explanation is not None
    assert explanation.explained[:3] == (40, 30, 20)
    assert explanation.unexplained == {"b": "It was away."}
    assert masked.job is not None
    assert (masked.job.number, masked.job.size, masked.job.counts) == (5, 0, num_importance_sums(10, 64))
    task = masked.job.task(2, 3)
    assert isinstance(task, ExplainTask)
    assert (task.round, task.attempt, task.folder) == (5, 2, "")


@pytest.mark.parametrize("masked", [Masked(None), Masked(None, np.full(1290, 101, np.uint64))])
def test_a_masked_sum_that_fails_or_is_none_does_not_end_the_study(make_plan: Make, masked: Masked) -> None:
    explanation = explained(make_plan(privacy=MASKS, evaluation=EXPLAIN), masked=masked)
    assert explanation is not None
    assert set(explanation.unexplained) == {"all sites"}
    assert explanation.explained == (0,) * 10
    assert explanation.views[0].importance == (None,) * 10
