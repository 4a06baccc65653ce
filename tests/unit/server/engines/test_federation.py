"""Engine ``federation`` without a network: what becomes of a reply that is not of the kind that was asked for."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.common.serde import message_to_proto

from hansa_common.codecs import pack
from hansa_common.messages import Envelope, InitialTask, RawArray, Refusal, TrainTask, encode
from hansa_common.messages import Message as HansaMessage
from hansa_common.settings import Strict
from hansa_common.wire.codec import Kind, Parcel
from hansa_server.app import envelope_to_records
from hansa_server.engines.federation import FederationGrid
from hansa_server.federation.control import CloseRequest, Done, PulledOutcome, PullReply, PullRequest, PushRequest


class Coordinator:
    """Has the same reply for every task."""

    path: Path
    closed: tuple[str, ...] = ()
    limits: tuple[int, ...] = ()

    def call(self, _method: str, request: Strict, _reply: type[Strict], **_options: Any) -> Strict:
        if isinstance(request, PushRequest):
            self.limits += tuple(task.max_reply for task in request.tasks)
            return Done()
        if isinstance(request, CloseRequest):
            self.closed += request.tasks
            return Done()
        assert isinstance(request, PullRequest)
        size = self.path.stat().st_size
        outcomes = [PulledOutcome(task=task, path=str(self.path), size=size, failure="") for task in request.tasks]
        return PullReply(outcomes=tuple(outcomes))


def exchange(folder: Path, asked: RecordDict, make: Callable[[], Parcel]) -> Message:
    coordinator: Any = Coordinator()
    grid = FederationGrid(control=coordinator, folder=folder / "study", study="some", attempt=1, sites=("a",))
    coordinator.path = folder / "reply"
    coordinator.path.write_bytes(b"".join(make().pieces()))  # Flower makes messages only where a grid is
    (reply,) = grid.send_and_receive([grid.create_message(asked, "train", 1, "")])
    assert len(coordinator.closed) == (asked is FLOWER)  # what another app was told is not kept
    return reply


FLOWER = RecordDict({"config": ConfigRecord({"lr": 0.1})})
HANSA = envelope_to_records(encode(HansaMessage(header=InitialTask(plan_digest="0" * 64))))


def hansa() -> Parcel:
    header = InitialTask(plan_digest="1" * 64)
    return Parcel(kind=Kind.HANSA, envelope=encode(HansaMessage(header=header)))


def refusal() -> Parcel:
    header = Refusal(code="paused", site="a", reason="The site is paused.")
    return Parcel(kind=Kind.HANSA, envelope=encode(HansaMessage(header=header)))


def flower() -> Parcel:
    task = Message(RecordDict(), 1, "train")
    task.metadata.__dict__["_message_id"] = "1"
    content = message_to_proto(Message(FLOWER, reply_to=task)).SerializeToString()
    array = RawArray(dtype="|u1", shape=(len(content),), data=content)
    return Parcel(kind=Kind.FLOWER, envelope=Envelope(header=b"", arrays={"message": array}))


def test_replies_of_the_kind_that_was_asked_for_arrive(tmp_path: Path) -> None:
    assert exchange(tmp_path, FLOWER, flower).content["config"] == ConfigRecord({"lr": 0.1})
    assert exchange(tmp_path, HANSA, hansa).has_content()


def test_another_apps_study_gets_a_sites_refusal_as_an_error_and_not_as_records(tmp_path: Path) -> None:
    reply = exchange(tmp_path, FLOWER, refusal)
    assert reply.has_error()
    assert reply.error.reason == "The site is paused."


@pytest.mark.parametrize(
    ("asked", "make"),
    [(FLOWER, hansa), (HANSA, flower)],
    ids=["hansa", "flower"],
)
def test_a_message_of_another_kind_is_an_error(tmp_path: Path, asked: RecordDict, make: Callable[[], Parcel]) -> None:
    reply = exchange(tmp_path, asked, make)
    assert reply.has_error()
    assert "another kind" in str(reply.error.reason)


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("down", ["float32", "bf16", "int8"])
def test_a_reply_to_a_packed_model_may_be_as_large_as_an_update_and_not_much_more(
    tmp_path: Path, down: Any, compress: bool
) -> None:
    size = 1 << 20
    packed = pack(np.zeros(size, np.float32), down, compress=compress, seed=None)
    header = TrainTask(plan_digest="0" * 64, round=1, attempt=1)
    coordinator: Any = Coordinator()
    grid = FederationGrid(control=coordinator, folder=tmp_path / "study", study="some", attempt=1, sites=("a",))
    asked = envelope_to_records(encode(HansaMessage(header=header, packed=packed)))
    grid.push_messages([grid.create_message(asked, "train", 1, "")])
    (limit,) = coordinator.limits
    assert 4 * size < limit <= 16 * size + (64 << 20)
