"""Engine ``federation``: Flower's Grid over the coordinator's durable tasks.

A study's process writes a task's bytes once, whatever the number of sites, and hands the coordinator only their
digest; a reply comes back as the name of a file. Nothing here knows of networks.
"""

import contextlib
import hashlib
import json
import time
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from flwr.app import Error, Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.message_pb2 import Message as ProtoMessage
from google.protobuf.message import DecodeError

from hansa_common.codecs import unpacked_bytes
from hansa_common.errors import MessageError
from hansa_common.failpoints import reach
from hansa_common.files import storage, sync_folder
from hansa_common.messages import Envelope, RawArray, Refusal, decode
from hansa_common.wire.codec import Kind, Parcel, read_parcel
from hansa_common.wire.protocol import TaskId
from hansa_server.app import envelope_from_records, envelope_to_records
from hansa_server.engines.grid import OwnGrid
from hansa_server.federation.control import (
    MESSAGE,
    CloseRequest,
    Control,
    Done,
    PulledOutcome,
    PullReply,
    PullRequest,
    PushedTask,
    PushRequest,
)

_WAIT: Final = 0.5  # seconds that a pull waits for a first reply
_AT_ONCE: Final = 4 << 20  # bytes of replies handed over at a time, beside one that is larger
_MAP_FROM: Final = 1 << 20  # bytes of an array that stays in the reply's file, which nobody changes while it is there
_SLACK: Final = 32 << 20  # bytes of a reply beside its vector: header, counts, statements of secure aggregation
_FLOAT32: Final = 4  # bytes
_LARGEST: Final = 16 << 30  # bytes of a reply whose size nothing tells
_STEPS: Final = {"initial-task": "initial"}
_MASKING: Final = ("setup", "confirm", "unmask")


@dataclass(frozen=True, slots=True)
class _Content:
    sha256: str
    size: int
    step: str
    max_reply: int


class FederationGrid(OwnGrid):
    """A Flower Grid whose nodes are the sites of a federation.

    Args:
        control: Connection to the coordinator.
        folder: The study's part of the exchange folder.
        study: Its id.
        attempt: Counts up when an operator resumes the study.
        sites: Those that take part; their node ids are 1, 2 ... in this order.
    """

    def __init__(self, *, control: Control, folder: Path, study: str, attempt: int, sites: Sequence[str]) -> None:
        self.names = {index + 1: site for index, site in enumerate(sites)}
        super().__init__(self.names)
        self._control = control
        self._folder = folder
        self._study = study
        self._attempt = attempt
        self._waiting: dict[str, tuple[str, Message]] = {}  # message id -> task, message without content
        with storage(folder, "create"):
            folder.mkdir(parents=True, exist_ok=True)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Ask sites; returns once the tasks are durable.

        Raises:
            ValueError: A message is for a node that is not there.
            HansaError: The coordinator does not take them.
        """
        contents: dict[int, _Content] = {}
        pushed: list[PushedTask] = []
        ids = []
        for message in messages:
            node = message.metadata.dst_node_id
            if node not in self.names:
                raise ValueError(f"There is no node {node}.")
            message.metadata.__dict__["_message_id"] = uuid.uuid4().hex  # as Flower's own grids set it
            key = id(message.content)
            envelope = _hansa_envelope(message.content)
            if envelope is None:
                content = self._write(Parcel(kind=Kind.FLOWER, envelope=_flower_envelope(message)), _flower_step())
            else:
                content = contents.get(key) or self._write_hansa(envelope)
                contents[key] = content
            task = TaskId(study=self._study, step=content.step, attempt=self._attempt, site=self.names[node])
            pushed.append(
                PushedTask(
                    task=task,
                    content=content.sha256,
                    size=content.size,
                    max_reply=content.max_reply,
                    seconds=min(message.metadata.ttl, 30 * 86_400.0),
                )
            )
            bare = Message(RecordDict(), node, message.metadata.message_type)
            bare.metadata.__dict__["_message_id"] = message.metadata.message_id
            self._waiting[message.metadata.message_id] = (str(task), bare)
            ids.append(message.metadata.message_id)
        self._control.call("Push", PushRequest(study=self._study, tasks=tuple(pushed)), Done)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return some of the replies that are there, as many as fit; wait a moment for a first one."""
        tasks = {self._waiting[message_id][0]: message_id for message_id in message_ids if message_id in self._waiting}
        if not tasks:
            return []
        request = PullRequest(tasks=tuple(tasks), seconds=_WAIT)
        found = self._control.call("Pull", request, PullReply, timeout=_WAIT + 60).outcomes
        replies: list[Message] = []
        read: list[str] = []
        size = 0
        for outcome in found:
            size += outcome.size
            if replies and size > _AT_ONCE:
                break
            _task, message = self._waiting.pop(tasks[outcome.task])
            replies.append(_read_reply(outcome, message))
            if _is_flower(outcome.task):
                read.append(outcome.task)
        reach("study.aggregate")
        if read:
            self._control.call("Close", CloseRequest(tasks=tuple(read)), Done)
        return replies

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """See Flower's Grid; replies come in the order of the messages, so sums do not depend on who is first."""
        ids = list(self.push_messages(messages))
        waiting = set(ids)
        deadline = None if timeout is None else time.monotonic() + timeout
        replies: list[Message] = []
        while waiting and (deadline is None or time.monotonic() < deadline):
            found = list(self.pull_messages(waiting))
            replies += found
            waiting -= {reply.metadata.reply_to_message_id for reply in found}
        self.abandon(waiting)
        order = {message_id: position for position, message_id in enumerate(ids)}
        return sorted(replies, key=lambda reply: order[reply.metadata.reply_to_message_id])

    def abandon(self, message_ids: Iterable[str]) -> None:
        """Stop waiting for replies."""
        tasks = [self._waiting.pop(message_id)[0] for message_id in message_ids if message_id in self._waiting]
        if tasks:
            self._control.call("Close", CloseRequest(tasks=tuple(tasks)), Done)

    def _write_hansa(self, envelope: Envelope) -> _Content:
        step = _step_of(envelope)
        known = sum(_largest_update(name, array.data) for name, array in envelope.arrays.items())
        max_reply = known + _SLACK if known or step == "open" else _LARGEST
        return self._write(Parcel(kind=Kind.HANSA, envelope=envelope), step, max_reply)

    def _write(self, parcel: Parcel, step: str, max_reply: int = _LARGEST) -> _Content:
        """Write a task's bytes under their digest, durably.

        Raises:
            StorageError: The disk is full or fails.
        """
        digest, size = hashlib.sha256(), 0
        temporary = self._folder / f".writing-{uuid.uuid4().hex}"
        with storage(self._folder, "write a task in"):
            try:
                with temporary.open("wb") as file:
                    for piece in parcel.pieces():
                        digest.update(piece)
                        size += file.write(piece)
                    file.flush()
                temporary.replace(self._folder / f"task-{digest.hexdigest()}")
            except OSError:
                with contextlib.suppress(OSError):
                    temporary.unlink(missing_ok=True)
                raise
            sync_folder(self._folder)
        return _Content(digest.hexdigest(), size, step, max_reply)


def _hansa_envelope(records: RecordDict) -> Envelope | None:
    """Return the Hansa message in these records, or ``None`` where they are another app's."""
    try:
        return envelope_from_records(records)
    except MessageError:
        return None


def _largest_update(name: str, data: bytes | memoryview) -> int:
    """Return how many bytes an update to this model has at most; 0 for an array that is no model."""
    if name == "vector":
        return len(data)
    if name == "packed":  # a codec takes one byte for a value at least, and a float32 four
        return _FLOAT32 * unpacked_bytes(data)
    return 0


def _step_of(envelope: Envelope) -> str:
    """Name the step that a Hansa message belongs to."""
    header = json.loads(envelope.header)
    kind = _STEPS.get(header["kind"], header["kind"])
    if kind in _MASKING or "statement" in envelope.arrays:  # a round of it may take several attempts
        return f"{kind}-{header['round']}-{header['attempt']}"
    return f"{kind}-{header['round']}" if kind == "train" else kind


def _flower_step() -> str:
    return f"{MESSAGE}{uuid.uuid4().hex}"


def _is_flower(task: str) -> bool:
    return TaskId.parse(task).step.startswith(MESSAGE)


def _reason_of(parcel: Parcel) -> str:
    """Say why a site answered another app's message with none of its own: it refused, or it is confused.

    Raises:
        MessageError: What it sent is no message.
    """
    header = decode(parcel.envelope).header if parcel.kind is Kind.HANSA else None
    return header.reason if isinstance(header, Refusal) else "It sent a message of another kind than was asked for."


def _flower_envelope(message: Message) -> Envelope:
    content = message_to_proto(message).SerializeToString()
    return Envelope(header=b"", arrays={"message": RawArray(dtype="|u1", shape=(len(content),), data=content)})


def _read_reply(outcome: PulledOutcome, message: Message) -> Message:
    """Turn the outcome of a task into the reply that Flower expects, an error where there is none."""
    if outcome.failure:
        return _failed(message, outcome.failure)
    try:
        with Path(outcome.path).open("rb") as file:
            parcel = read_parcel(file, outcome.size, map_from=_MAP_FROM)
        if (parcel.kind is Kind.FLOWER) != _is_flower(outcome.task):
            return _failed(message, _reason_of(parcel))
        if parcel.kind is Kind.HANSA:
            return _identified(Message(envelope_to_records(parcel.envelope, views=True), reply_to=message))
        reply = message_from_proto(ProtoMessage.FromString(bytes(parcel.envelope.arrays["message"].data)))
        if reply.has_error():
            return _failed(message, f"Its app failed: {reply.error.reason}"[:2_000])
        return _identified(Message(reply.content, reply_to=message))
    except (MessageError, OSError, KeyError, ValueError, TypeError, DecodeError) as error:
        return _failed(message, f"It sent bytes that are no valid message: {error}")


def _failed(message: Message, reason: str) -> Message:
    return _identified(Message(Error(code=ErrorCode.MESSAGE_UNAVAILABLE, reason=reason), reply_to=message))


def _identified(reply: Message) -> Message:
    reply.metadata.__dict__["_message_id"] = uuid.uuid4().hex
    return reply
