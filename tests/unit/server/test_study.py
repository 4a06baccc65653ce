"""The study without engine, network or torch: sites are functions, so that every failure is three lines."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hansa_common.errors import StudyFailed, UsageError
from hansa_common.messages import (
    Baseline,
    BaselineTask,
    Evaluated,
    EvaluateTask,
    Initial,
    InitialTask,
    Message,
    Opened,
    OpenTask,
    Refusal,
    TrainTask,
    Update,
)
from hansa_common.metrics import ClassificationCounts, CountsKind
from hansa_common.parameters import ParameterSpec, Tensor
from hansa_common.plan import StudyPlan
from hansa_server.exchange import Answer, Deadline
from hansa_server.notice import Notice
from hansa_server.outcome import results_of, write_results
from hansa_server.progress import Quiet
from hansa_server.store import RunFolder
from hansa_server.study import Study

P = 4
Site = Callable[[int, Message], Message | str | None]


def counts(node: int, *, histograms: bool = False) -> ClassificationCounts:
    labels = np.arange(10) % 10
    probabilities = np.full((10, 10), 0.01, np.float32)
    probabilities[np.arange(10), (labels + (np.arange(10) < node)) % 10] = 0.91
    return ClassificationCounts.of(probabilities, labels, np.ones(10), histograms=histograms)


def honest(node: int, message: Message, *, digest: str) -> Message:
    site = f"site-{node}"
    match message.header:
        case OpenTask():
            header = Opened(
                plan_digest=digest,
                site=site,
                train=10 * node,
                validation=10,
                test=10,
                class_counts=(node,) * 10,
                origin="nowhere",
                version="0",
                device="cpu",
            )
            return Message(header=header)
        case InitialTask():
            spec = ParameterSpec(tensors=(Tensor(name="w", shape=(P,)),))
            return Message(header=Initial(plan_digest=digest, spec=spec), vector=np.ones(P, np.float32))
        case TrainTask():
            assert message.vector is not None
            update = Update(
                plan_digest=digest,
                round=message.header.round,
                attempt=1,
                site=site,
                num_examples=10 * node,
                train_loss=1.0 / message.header.round,
                steps=1,
                seconds=2.0,
                train_seconds=1.5,
            )
            delta = (message.vector * np.float32(0.1) + np.float32(node)).astype(np.float32)
            return Message(header=update, vector=delta, counts={"validation": counts(node)})
        case EvaluateTask():
            evaluated = Evaluated(plan_digest=digest, site=site, seconds=1.0)
            return Message(header=evaluated, counts={"validation": counts(node), "test": counts(node, histograms=True)})
        case BaselineTask():
            baseline = Baseline(plan_digest=digest, subject=message.header.subject, site=site, seconds=1.0)
            everywhere = message.header.subject == "pooled" or message.header.everywhere
            names = [f"site-{n}" for n in range(1, 5)] if everywhere else [site]
            return Message(header=baseline, counts={name: counts(4, histograms=True) for name in names})
    raise AssertionError(message.header)


class Sites:
    """An ``Exchange`` whose sites answer at once; ``faults`` replace a site's answer."""

    def __init__(self, plan: StudyPlan, *, reverse: bool = False, **faults: Site) -> None:
        self.names: Mapping[int, str] = {}
        self.bytes_up = 0
        self.bytes_down = 0
        self.asked: list[str] = []
        self._digest = plan.digest()
        self._faults = {int(name.removeprefix("site_")): fault for name, fault in faults.items()}
        self._reverse = reverse

    def nodes(self) -> list[int]:
        return [1, 2, 3, 4]

    def ask(self, requests: Sequence[tuple[int, Message]], *, deadline: Deadline, kind: CountsKind) -> Iterator[Answer]:
        for node, message in requests[::-1] if self._reverse else requests:
            self.asked.append(f"{message.header.kind} {node}")
            self.bytes_down += 1
            reply: Message | str | None = honest(node, message, digest=self._digest)
            if node in self._faults:
                changed = self._faults[node](node, message)
                reply = reply if changed == "honest" else changed
            if reply is None:
                continue
            self.bytes_up += 1
            if isinstance(reply, str):
                yield Answer(node=node, failure=reply)
            else:
                yield Answer(node=node, message=reply, num_bytes=1)


def run(plan: StudyPlan, folder: Path, sites: Sites, *, baselines: bool = False) -> Study:
    run_folder = RunFolder.create(folder)
    study = Study(plan=plan, folder=run_folder, engine="test", observer=Quiet(), baselines=baselines)
    try:
        study.run(sites)
    finally:
        run_folder.close()
    return study


def in_training(reply: Message | str | None, *, rounds: tuple[int, ...] = (1, 2, 3)) -> Site:
    def fault(_node: int, message: Message) -> Message | str | None:
        is_due = isinstance(message.header, TrainTask) and message.header.round in rounds
        return reply if is_due else "honest"

    return fault


def test_the_model_is_that_of_a_second_implementation(tmp_path: Path, small_plan: StudyPlan) -> None:
    study = run(small_plan, tmp_path / "run", Sites(small_plan))
    expected = np.ones(P)
    for _round in range(3):
        deltas = [
            (expected.astype(np.float32) * np.float32(0.1) + np.float32(n)).astype(np.float64) for n in range(1, 5)
        ]
        weights = [10, 20, 30, 40]
        expected = expected + sum(w * d for w, d in zip(weights, deltas, strict=True)) / sum(weights)
    assert study.parameters is not None
    assert np.allclose(study.parameters, expected, rtol=1e-6)


def test_order_of_arrival_does_not_matter(tmp_path: Path, small_plan: StudyPlan) -> None:
    one = run(small_plan, tmp_path / "one", Sites(small_plan))
    other = run(small_plan, tmp_path / "other", Sites(small_plan, reverse=True))
    assert one.parameters is not None
    assert other.parameters is not None
    assert one.parameters.tobytes() == other.parameters.tobytes()


def test_a_round_is_one_exchange(tmp_path: Path, small_plan: StudyPlan) -> None:
    sites = Sites(small_plan)
    run(small_plan, tmp_path / "run", sites)
    kinds = [entry.split()[0] for entry in sites.asked]
    assert kinds == ["open"] * 4 + ["initial-task"] + ["train"] * 12 + ["evaluate"] * 4


@pytest.mark.parametrize("reply", ["Its worker process was killed by SIGKILL.", None, "refusal"])
def test_a_failing_site_is_missing_by_name_while_the_quorum_goes_on(
    tmp_path: Path, make_plan: Callable[..., StudyPlan], reply: str | None
) -> None:
    plan = make_plan(rounds={"count": 3, "quorum": 0.75})
    answer = Message(header=Refusal(code="training", site="site-2", reason="diverged")) if reply == "refusal" else reply
    study = run(plan, tmp_path / "run", Sites(plan, site_2=in_training(answer, rounds=(2,))))
    assert [list(result.missing) for result in study.rounds] == [[], ["site-2"], []]
    expected = {None: "deadline", "refusal": "diverged"}.get(reply, "SIGKILL")
    assert expected in study.rounds[1].missing["site-2"]
    assert study.closing is not None


def test_below_the_quorum_the_study_stops_and_keeps_what_it_reached(
    tmp_path: Path, make_plan: Callable[..., StudyPlan]
) -> None:
    plan = make_plan(rounds={"count": 3, "quorum": 1.0})
    sites = Sites(plan, site_3=in_training("it died", rounds=(2,)))
    with pytest.raises(StudyFailed, match=r"Round 2 is void: 3 of 4 sites delivered, the quorum is 4") as caught:
        run(plan, tmp_path / "run", sites)
    assert "site-3: it died" in caught.value.message
    folder = RunFolder.create(tmp_path / "again")
    resumed = Study(plan=plan, folder=folder, engine="test", observer=Quiet())
    checkpoint = RunFolder(tmp_path / "run").load_checkpoint()
    assert checkpoint is not None
    resumed.restore(checkpoint)
    resumed.run(Sites(plan))
    whole = run(plan, tmp_path / "whole", Sites(plan))
    assert resumed.parameters is not None
    assert whole.parameters is not None
    assert resumed.parameters.tobytes() == whole.parameters.tobytes()
    assert [result.round for result in resumed.rounds] == [1, 2, 3]


def test_an_update_with_nan_is_refused_by_name(tmp_path: Path, make_plan: Callable[..., StudyPlan]) -> None:
    plan = make_plan(rounds={"count": 3, "quorum": 0.75})
    task = Message(header=TrainTask(plan_digest=plan.digest(), round=1, attempt=1), vector=np.ones(P, np.float32))
    header = honest(1, task, digest=plan.digest()).header
    poisoned = Message(header=header, vector=np.full(P, np.nan, np.float32), counts={"validation": counts(1)})
    study = run(plan, tmp_path / "run", Sites(plan, site_1=in_training(poisoned, rounds=(1,))))
    assert "site-1 sent an update with NaN" in study.rounds[0].missing["site-1"]
    assert study.parameters is not None
    assert np.isfinite(study.parameters).all()


def _opening(**changes: Any) -> Site:
    def fault(_node: int, message: Message) -> Message | str | None:
        if not isinstance(message.header, OpenTask):
            return "honest"
        header = Opened.model_validate(
            {
                "plan_digest": changes.get("plan_digest", "00" * 32),
                "site": changes.get("site", "site-2"),
                "train": changes.get("train", 20),
                "validation": 10,
                "test": 10,
                "class_counts": changes.get("class_counts", (1,) * 10),
                "origin": "nowhere",
                "version": "0",
                "device": "cpu",
            }
        )
        return Message(header=header)

    return fault


@pytest.mark.parametrize(
    "changes", [{}, {"site": "site-1"}, {"train": 0}, {"class_counts": (1,)}], ids=["plan", "name", "empty", "classes"]
)
def test_a_site_that_opens_something_else_does_not_take_part(
    tmp_path: Path, make_plan: Callable[..., StudyPlan], changes: dict[str, Any]
) -> None:
    plan = make_plan(rounds={"count": 1, "quorum": 0.75})
    digest = {"plan_digest": plan.digest()} if changes else {}
    study = run(plan, tmp_path / "run", Sites(plan, site_2=_opening(**(changes | digest))))
    assert len(study.sites) == 3
    assert len(study.unopened) == 1


def test_too_few_open_sites_fail_the_study_with_each_reason(tmp_path: Path, small_plan: StudyPlan) -> None:
    def broken(_node: int, message: Message) -> Message | str:
        if not isinstance(message.header, OpenTask):
            return "honest"
        return Message(header=Refusal(code="contract", site="site-4", reason="Column 'age': row 3."))

    with pytest.raises(StudyFailed, match="site-4: Column 'age': row 3"):
        run(small_plan, tmp_path / "run", Sites(small_plan, site_4=broken))


def test_a_model_that_cannot_be_initialised_fails_the_study(tmp_path: Path, small_plan: StudyPlan) -> None:
    def broken(_node: int, message: Message) -> Message | str:
        return "no memory" if isinstance(message.header, InitialTask) else "honest"

    with pytest.raises(StudyFailed, match="site-1 could not initialise the model: no memory"):
        run(small_plan, tmp_path / "run", Sites(small_plan, site_1=broken))


def test_baselines_are_gathered_for_every_site(tmp_path: Path, small_plan: StudyPlan) -> None:
    study = run(small_plan, tmp_path / "run", Sites(small_plan), baselines=True)
    assert study.baselines is not None
    assert set(study.baselines.local_only) == set(study.baselines.pooled) == set(study.sites)


def test_a_site_that_is_left_out_is_asked_at_the_end_only(tmp_path: Path, make_plan: Callable[..., StudyPlan]) -> None:
    plan = make_plan(simulation={"leave_out": "site-3"})
    sites = Sites(plan)
    study = run(plan, tmp_path / "run", sites)
    assert [entry for entry in sites.asked if entry.endswith(" 3")] == ["open 3", "evaluate 3"]
    final = results_of(study, run="run", status="completed", reason="").final
    assert final is not None
    assert final.left_out is not None
    assert (final.left_out.site, final.left_out.accuracy) == ("site-3", 0.7)
    assert final.site_mean is not None
    assert final.site_mean.accuracy == pytest.approx((0.9 + 0.8 + 0.6) / 3)


@pytest.mark.parametrize("kind", ["open", "evaluate"])
def test_without_the_site_that_is_left_out_there_is_no_study(
    tmp_path: Path, make_plan: Callable[..., StudyPlan], kind: str
) -> None:
    def broken(_node: int, message: Message) -> Message | str:
        return "it died" if message.header.kind == kind else "honest"

    plan = make_plan(simulation={"leave_out": "site-3"})
    with pytest.raises(StudyFailed, match=r"site-3, which (is|was) left out"):
        run(plan, tmp_path / "run", Sites(plan, site_3=broken))


def test_the_reliability_diagram_is_that_of_all_sites(tmp_path: Path, small_plan: StudyPlan) -> None:
    """Every answer of these sites is 91% sure; site n is wrong on n of its ten examples."""
    study = run(small_plan, tmp_path / "run", Sites(small_plan))
    final = results_of(study, run="run", status="completed", reason="").final
    assert final is not None
    assert final.weighted_mean is not None
    (found,) = final.reliability
    assert (found.num_examples, found.accuracy) == (40, 0.75)
    assert found.confidence == pytest.approx(0.91)
    assert final.weighted_mean.calibration_error == pytest.approx(found.confidence - found.accuracy)


def test_every_model_is_tested_at_every_site(tmp_path: Path, small_plan: StudyPlan) -> None:
    """The n-th model is wrong on two more of ten examples than the one before; and on one more at each next site."""

    def local(node: int, message: Message) -> Message | str:
        if not isinstance(message.header, BaselineTask) or message.header.subject != "local":
            return "honest"
        assert message.header.everywhere
        header = Baseline(plan_digest=small_plan.digest(), subject="local", site=f"site-{node}", seconds=1.0)
        return Message(
            header=header, counts={f"site-{s}": counts(2 * (node - 1) + s - 1, histograms=True) for s in range(1, 5)}
        )

    sites = {f"site_{n}": local for n in range(1, 5)}
    study = run(small_plan, tmp_path / "run", Sites(small_plan, reverse=True, **sites), baselines=True)
    results = results_of(study, run="run", status="completed", reason="")
    assert results.baselines is not None
    matrix = results.baselines.cross_site
    assert matrix is not None
    assert matrix.sites == ("site-1", "site-2", "site-3", "site-4")
    assert matrix.local_only == tuple(tuple((10 - 2 * m - s) / 10 for s in range(4)) for m in range(4))
    assert matrix.federated == tuple(site.federated.accuracy for site in results.sites if site.federated)
    for row, site in enumerate(results.sites):
        assert site.local_only is not None
        assert matrix.local_only[row][row] == site.local_only.accuracy


def test_a_failing_baseline_loses_nothing_of_the_study(tmp_path: Path, small_plan: StudyPlan) -> None:
    def broken(_node: int, message: Message) -> Message | str:
        return "it died" if isinstance(message.header, BaselineTask) else "honest"

    folder = RunFolder.create(tmp_path / "run")
    study = Study(plan=small_plan, folder=folder, engine="test", observer=Quiet(), baselines=True)
    with pytest.raises(StudyFailed, match="baseline"):
        study.run(Sites(small_plan, site_2=broken))
    assert study.closing is not None


def test_only_the_cohort_of_a_round_is_asked(tmp_path: Path, make_plan: Callable[..., StudyPlan]) -> None:
    plan = make_plan(rounds={"count": 3, "sites_per_round": 2})
    sites = Sites(plan)
    study = run(plan, tmp_path / "run", sites)
    assert sum(entry.startswith("train") for entry in sites.asked) == 6
    assert all(len(result.sites) == 2 for result in study.rounds)


def test_a_checkpoint_of_another_plan_is_refused(tmp_path: Path, make_plan: Callable[..., StudyPlan]) -> None:
    plan = make_plan()
    run(plan, tmp_path / "run", Sites(plan))
    checkpoint = RunFolder(tmp_path / "run").load_checkpoint()
    assert checkpoint is not None
    other = Study(plan=make_plan(seed=9), folder=RunFolder.create(tmp_path / "x"), engine="test", observer=Quiet())
    with pytest.raises(UsageError, match="another plan"):
        other.restore(checkpoint)


def _with_counts(changed: ClassificationCounts) -> Site:
    def fault(node: int, message: Message) -> Message | str:
        if not isinstance(message.header, EvaluateTask):
            return "honest"
        header = Evaluated(plan_digest=message.header.plan_digest, site=f"site-{node}", seconds=1.0)
        return Message(header=header, counts={"validation": counts(node), "test": changed})

    return fault


@pytest.mark.parametrize("kind", ["no histograms", "more examples"])
def test_counts_of_other_examples_than_declared_do_not_reach_the_result(
    tmp_path: Path, make_plan: Callable[..., StudyPlan], kind: str
) -> None:
    plan = make_plan(rounds={"count": 1, "quorum": 0.75})
    changed = counts(2) if kind == "no histograms" else counts(2, histograms=True) + counts(2, histograms=True)
    study = run(plan, tmp_path / "run", Sites(plan, site_2=_with_counts(changed)))
    assert study.closing is not None
    assert set(study.closing.test) == {"site-1", "site-3", "site-4"}


def test_a_model_that_is_not_finite_stops_the_study_before_the_checkpoint(
    tmp_path: Path, make_plan: Callable[..., StudyPlan], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hansa_server.rounds._LARGEST", np.inf)  # the bound on each update keeps this from happening
    plan = make_plan(rounds={"count": 3})

    def huge(node: int, message: Message) -> Message | str:
        if not isinstance(message.header, TrainTask) or message.header.round < 2:
            return "honest"
        reply = honest(node, message, digest=plan.digest())
        return Message(header=reply.header, vector=np.full(P, 3.4e38, np.float32), counts=reply.counts)

    with pytest.raises(StudyFailed, match="Round 3 would give a model with NaN or infinity"):
        run(plan, tmp_path / "run", Sites(plan, site_1=huge, site_2=huge, site_3=huge, site_4=huge))
    checkpoint = RunFolder(tmp_path / "run").load_checkpoint()
    assert checkpoint is not None
    assert len(checkpoint.progress.rounds) == 2
    assert np.isfinite(checkpoint.parameters).all()


def test_a_site_that_is_silent_is_named_with_the_deadline(tmp_path: Path, small_plan: StudyPlan) -> None:
    def silent(_node: int, message: Message) -> Message | str | None:
        return None if isinstance(message.header, OpenTask) else "honest"

    with pytest.raises(StudyFailed, match="node 3: It did not reply before the deadline"):
        run(small_plan, tmp_path / "run", Sites(small_plan, site_3=silent))


def test_another_division_of_the_data_is_another_study(tmp_path: Path, make_plan: Callable[..., StudyPlan]) -> None:
    plan = make_plan()
    run(plan, tmp_path / "run", Sites(plan))
    checkpoint = RunFolder(tmp_path / "run").load_checkpoint()
    assert checkpoint is not None
    changed = make_plan(simulation={"partition": "iid"})
    other = Study(plan=changed, folder=RunFolder.create(tmp_path / "x"), engine="test", observer=Quiet())
    with pytest.raises(UsageError, match="another plan"):
        other.restore(checkpoint)


def test_what_a_study_notices_is_told_once_kept_in_its_results_and_told_again_after_a_resume(
    tmp_path: Path, make_plan: Callable[..., StudyPlan]
) -> None:
    class Listener(Quiet):
        def __init__(self) -> None:
            self.heard: list[tuple[str, str | None, int]] = []

        def noticed(self, notice: Notice) -> None:
            self.heard.append((notice.kind, notice.site, notice.round))

    def wild(node: int, message: Message) -> Message | str | None:
        if not isinstance(message.header, TrainTask):
            return "honest"
        reply = honest(node, message, digest=plan.digest())
        assert reply.vector is not None
        return Message(header=reply.header, vector=reply.vector * np.float32(100), counts=reply.counts)

    plan = make_plan()
    listener, sites = Listener(), Sites(plan, site_1=wild)
    folder = RunFolder.create(tmp_path / "run")
    study = Study(plan=plan, folder=folder, engine="test", observer=listener)
    study.run(sites)
    expected = [("diverging_site", "site-1", 2)]
    assert listener.heard == expected
    results = results_of(study, run="run", status="completed", reason="")
    assert [(notice.kind, notice.site, notice.round) for notice in results.notices] == expected
    write_results(folder, study, results)
    assert "site-1 runs away from the others" in (tmp_path / "run" / "report.html").read_text()
    assert '"diverging_site"' in (tmp_path / "run" / "metrics.json").read_text()
    resumed = Study(plan=plan, folder=folder, engine="test", observer=Listener())
    checkpoint = folder.load_checkpoint()
    assert checkpoint is not None
    resumed.restore(checkpoint)
    resumed.run(Sites(plan))
    assert resumed.noticed.all == study.noticed.all
    folder.close()


def test_an_update_in_another_codec_than_the_plans_is_missing_by_name(
    tmp_path: Path, make_plan: Callable[..., StudyPlan]
) -> None:
    """The sites of this file send ``float32``."""
    plan = make_plan(transport={"codec": "int8"})
    with pytest.raises(StudyFailed, match="not in the codec"):
        run(plan, tmp_path / "run", Sites(plan))
