"""A clipping bound that follows the sites' norms, through the study and the sites' own session, in one process."""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.integration.test_site_algorithms import DiesAfter, InProcess, Interrupted, run

from hansa_common.errors import UpdateRefused
from hansa_common.losses import losses_of_rounds, spent
from hansa_common.messages import Message, TrainTask, Update
from hansa_common.metrics import CountsKind
from hansa_common.parameters import l2_norm
from hansa_common.plan import StudyPlan
from hansa_common.privacy import AdaptiveClipping, Gaussian, ServerMechanism
from hansa_server.exchange import Answer, Deadline
from hansa_server.rounds import Round

START, RATE, QUANTILE = 0.1, 1.0, 0.5
NOISE = {"kind": "site_server", "noise_multiplier": 1.0, "epsilon": 900.0, "delta": 1e-5, "clipping_bound": START}
ADAPTIVE = {"rate": RATE, "quantile": QUANTILE, "noise_multiplier": 2.0, "least": 0.01, "most": 5.0}


@pytest.fixture
def moving(make_plan: Callable[..., StudyPlan]) -> StudyPlan:
    differential = NOISE | {"adaptive": ADAPTIVE}
    return make_plan(privacy={"weights": "equal", "differential": differential}, rounds={"count": 7})


class Recorded(InProcess):
    """Remembers what each site was told and what it sent; may change a task on its way."""

    def __init__(self, **changes: Any) -> None:
        super().__init__()
        self.seen: dict[int, list[tuple[float, bool, float]]] = {}
        self.said: list[str] = []
        self._changes = changes

    def ask(self, requests: Sequence[tuple[int, Message]], *, deadline: Deadline, kind: CountsKind) -> Iterator[Answer]:
        changed = [(node, self._change(message)) for node, message in requests]
        tasks = dict(changed)
        for answer in super().ask(changed, deadline=deadline, kind=kind):
            task, reply = tasks[answer.node].header, answer.message
            if isinstance(task, TrainTask) and reply is not None:
                if isinstance(reply.header, Update):
                    assert task.clipping_bound is not None
                    assert reply.header.was_within is not None
                    assert reply.vector is not None
                    told = (task.clipping_bound, reply.header.was_within, l2_norm(reply.vector))
                    self.seen.setdefault(task.round, []).append(told)
                else:
                    self.said.append(str(getattr(reply.header, "reason", "")))
            yield answer

    def _change(self, message: Message) -> Message:
        if not isinstance(message.header, TrainTask):
            return message
        return Message(header=message.header.model_copy(update=self._changes), vector=message.vector)


def test_the_bound_follows_what_was_clipped(tmp_path: Path, moving: StudyPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    """Algorithm 1 of Andrew et al. 2021 on what the sites sent, without noise: so the same each time."""
    monkeypatch.setattr(ServerMechanism, "add_noise", lambda _self, _total, _stream: None)
    monkeypatch.setattr(AdaptiveClipping, "add_noise", lambda _self, total, _stream: total)
    exchange = Recorded()
    results = run(moving, tmp_path / "run", exchange)
    bound = START
    for result in results.rounds:
        told = exchange.seen[result.round]
        assert {each for each, _within, _norm in told} == {bound}
        for _bound, within, norm in told:
            assert norm == pytest.approx(bound, rel=1e-5) if not within else norm <= bound
        share = np.mean([within for _bound, within, _norm in told])
        assert result.clipping_bound == bound
        bound = min(5.0, max(0.01, bound * math.exp(-RATE * (share - QUANTILE))))
        assert result.next_clipping_bound == pytest.approx(bound, rel=1e-12)
        assert result.next_clipping_bound is not None
        bound = result.next_clipping_bound
    assert bound > 2.0 * START
    assert {within for told in exchange.seen.values() for _bound, within, _norm in told} == {True, False}


def test_a_resumed_study_goes_on_at_its_bound(tmp_path: Path, moving: StudyPlan) -> None:
    with pytest.raises(Interrupted):
        run(moving, tmp_path / "run", observer=DiesAfter(2))
    exchange = Recorded()
    rounds = run(moving, tmp_path / "run", exchange).rounds
    assert sorted(exchange.seen) == [3, 4, 5, 6, 7]
    for before, after in itertools.pairwise(rounds):
        assert after.clipping_bound == before.next_clipping_bound


@pytest.mark.parametrize("bound", [None, START * 2, 0.001, 6.0], ids=["none", "another", "too small", "too large"])
def test_a_site_refuses_another_bound(tmp_path: Path, moving: StudyPlan, bound: float | None) -> None:
    exchange = Recorded(clipping_bound=bound)
    with pytest.raises(Exception, match="Round 1 is void"):
        run(moving, tmp_path / "run", exchange)
    assert all("clipping bound" in reason for reason in exchange.said)
    assert not exchange.seen


def test_a_site_refuses_a_bound_that_its_plan_does_not_move(tmp_path: Path, small_plan: StudyPlan) -> None:
    exchange = Recorded(clipping_bound=1.0)
    with pytest.raises(Exception, match="Round 1 is void"):
        run(small_plan, tmp_path / "run", exchange)
    assert all("does not let it move" in reason for reason in exchange.said)


@pytest.mark.parametrize("told", [None, True])
def test_an_update_says_whether_it_was_clipped_only_where_that_counts(
    moving: StudyPlan, small_plan: StudyPlan, told: bool | None
) -> None:
    plan = moving if told is None else small_plan
    current = Round.__new__(Round)
    current._privacy = plan.privacy
    with pytest.raises(UpdateRefused, match="whether it clipped"):
        current._check_clipped("a", told)


def test_the_counts_cost_something(moving: StudyPlan) -> None:
    names = ["a", "b", "c"]
    events = losses_of_rounds(moving, names, 5, dimension=650)
    assert [event.noise_multiplier for event in events if isinstance(event, Gaussian)] == [1.0, 2.0]
    assert spent(moving, events) > 1.05 * spent(moving, events[:1])
