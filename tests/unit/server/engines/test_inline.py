"""Engine ``inline``: the sites' own code, called; what it gives is what any other engine gives."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from hansa_common.errors import StudyInterrupted
from hansa_common.messages import Envelope, Message, OpenTask, Refusal, encode
from hansa_common.metrics import ClassificationKind
from hansa_common.plan import StudyPlan
from hansa_server.engines.engine import Machine
from hansa_server.engines.inline import InlineExchange
from hansa_server.exchange import Answer, Deadline
from hansa_server.progress import Quiet
from hansa_server.results import Results
from hansa_server.simulation import simulate
from hansa_server.store import RunFolder

TASK = Message(header=OpenTask(plan="{}"))
REFUSAL = encode(Message(header=Refusal(code="data", site="a", reason="no")))


def ask(exchange: InlineExchange, *, seconds: float = 60.0) -> list[Answer]:
    return list(exchange.ask([(2, TASK), (1, TASK)], deadline=Deadline(seconds), kind=ClassificationKind(classes=2)))


def test_each_site_is_asked_and_its_bytes_are_counted() -> None:
    asked: list[bytes] = []

    def site(task: Envelope) -> Envelope:
        asked.append(task.header)
        return REFUSAL

    exchange = InlineExchange({1: site, 2: site}, threading.Event())
    answers = ask(exchange)
    assert [answer.node for answer in answers] == [2, 1]
    assert exchange.nodes() == [1, 2]
    assert asked == [encode(TASK).header] * 2
    assert exchange.bytes_down == 2 * encode(TASK).num_bytes
    assert exchange.bytes_up == 2 * REFUSAL.num_bytes == sum(answer.num_bytes for answer in answers)


def test_bytes_that_are_no_message_are_that_sites_failure() -> None:
    exchange = InlineExchange({1: lambda _task: Envelope(header=b"["), 2: lambda _task: REFUSAL}, threading.Event())
    good, bad = ask(exchange)
    assert good.message is not None
    assert bad.message is None
    assert "no valid message" in bad.failure


def test_a_stop_and_a_deadline_end_an_exchange() -> None:
    stop = threading.Event()

    def site(_task: Envelope) -> Envelope:
        stop.set()
        return REFUSAL

    with pytest.raises(StudyInterrupted):
        ask(InlineExchange({1: site, 2: site}, stop))
    assert ask(InlineExchange({1: site, 2: site}, threading.Event()), seconds=0.0) == []


def run(plan: StudyPlan, folder: Path, engine: Machine) -> Results:
    with_folder = RunFolder.create(folder)
    try:
        return simulate(plan, with_folder, machine=engine, observer=Quiet())
    finally:
        with_folder.close()


def test_a_whole_study_runs_and_less_data_gives_another_model(
    tmp_path: Path, make_plan: Callable[..., StudyPlan]
) -> None:
    few = {"count": 1}
    whole = run(make_plan(rounds=few), tmp_path / "whole", Machine(engine="inline"))
    half = run(make_plan(rounds=few, simulation={"fraction": 0.5}), tmp_path / "half", Machine(engine="inline"))
    assert whole.status == half.status == "completed"
    assert whole.model_sha256 != half.model_sha256
    for full, less in zip(whole.sites, half.sites, strict=True):
        assert less.examples["train"] == pytest.approx(full.examples["train"] / 2, abs=1)
        assert less.examples["test"] == full.examples["test"]
        assert sum(less.class_counts) == sum(less.examples.values())


@pytest.mark.slow
def test_it_gives_the_bits_of_engine_local(tmp_path: Path, make_plan: Callable[..., StudyPlan]) -> None:
    inline = run(make_plan(), tmp_path / "inline", Machine(engine="inline"))
    local = run(make_plan(), tmp_path / "local", Machine(engine="local", workers=2))
    assert inline.model_sha256 == local.model_sha256
    assert inline.final == local.final
