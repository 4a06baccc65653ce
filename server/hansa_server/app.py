"""Flower ServerApp: decode, call, encode; the study's exchange on Flower's Grid."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import cast

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, MessageType, RecordDict
from flwr.app import Message as FlowerMessage
from flwr.serverapp import Grid, ServerApp

from hansa_common.errors import MessageError, StudyFailed, StudyInterrupted
from hansa_common.messages import (
    BaselineTask,
    Envelope,
    EvaluateTask,
    Message,
    RawArray,
    TrainTask,
    decode,
    encode,
)
from hansa_common.metrics import CountsKind
from hansa_server.exchange import Answer, Deadline, Exchange

_STYPE = "hansa.raw"
_POLL = 0.01  # seconds between looks at a Grid that does not wait by itself
_NODES_SECONDS = 60.0  # to wait for nodes


def server_app(
    conduct: Callable[[Exchange], None],
    stop: threading.Event,
    *,
    nodes: int = 1,
    names: Mapping[int, str] | None = None,
) -> ServerApp:
    """Return a ServerApp that runs ``conduct`` on the Grid that Flower hands it, until ``stop`` is set.

    Args:
        conduct: The study.
        stop: Set by whoever wants the study to stop.
        nodes: How many must be there before it begins; Flower's simulation registers them while the ServerApp runs.
        names: The authenticated name of each node, where the Grid has one.
    """
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        del context
        conduct(GridExchange(grid, stop, expected=nodes, names=names))

    return app


class GridExchange:
    """An ``Exchange`` on any Flower Grid."""

    def __init__(
        self, grid: Grid, stop: threading.Event, *, expected: int = 1, names: Mapping[int, str] | None = None
    ) -> None:
        self.names = names or {}
        self.bytes_up = 0
        self.bytes_down = 0
        self._grid = grid
        self._stop = stop
        self._expected = expected
        self._views: bool = getattr(grid, "takes_views", False)
        self._abandon: Callable[[list[str]], None] | None = getattr(grid, "abandon", None)

    def nodes(self) -> list[int]:
        """Return the Grid's nodes, once all that are expected are there."""
        deadline = time.monotonic() + _NODES_SECONDS
        found = sorted(self._grid.get_node_ids())
        while len(found) < self._expected and time.monotonic() < deadline:
            self._check_stop()
            self._stop.wait(_POLL)
            found = sorted(self._grid.get_node_ids())
        if len(found) < self._expected:
            raise StudyFailed(f"{len(found)} of {self._expected} nodes are there after {_NODES_SECONDS:.0f} s.")
        return found

    def ask(self, requests: Sequence[tuple[int, Message]], *, deadline: Deadline, kind: CountsKind) -> Iterator[Answer]:
        """See ``Exchange.ask``."""
        self._check_stop()
        contents: dict[int, tuple[RecordDict, int]] = {}
        outgoing = []
        for node, message in requests:
            if id(message) not in contents:
                envelope = encode(message)
                contents[id(message)] = (envelope_to_records(envelope, views=self._views), envelope.num_bytes)
            content, size = contents[id(message)]
            outgoing.append(FlowerMessage(content, node, _message_type(message), ttl=deadline.left))
            self.bytes_down += size
        waiting = dict(zip(self._grid.push_messages(outgoing), (node for node, _ in requests), strict=True))
        del contents, outgoing
        try:
            while waiting and deadline.left:
                self._check_stop()
                replies = list(self._grid.pull_messages(list(waiting)))
                if not replies:
                    self._stop.wait(_POLL)
                while replies:
                    yield self._take(replies.pop(), waiting, kind)  # no name here: only the caller holds its array
        finally:
            if waiting and self._abandon is not None:
                self._abandon(list(waiting))

    def _take(self, reply: FlowerMessage, waiting: dict[str, int], kind: CountsKind) -> Answer:
        answer = _parse(waiting.pop(reply.metadata.reply_to_message_id), reply, kind)
        self.bytes_up += answer.num_bytes
        return answer

    def _check_stop(self) -> None:
        if self._stop.is_set():
            raise StudyInterrupted("The study was stopped by its operator.")


def _message_type(message: Message) -> str:
    match message.header:
        case TrainTask():
            return MessageType.TRAIN
        case EvaluateTask() | BaselineTask():
            return MessageType.EVALUATE
    return MessageType.QUERY


def _parse(node: int, reply: FlowerMessage, kind: CountsKind) -> Answer:
    if reply.has_error():
        return Answer(node=node, failure=reply.error.reason or f"Flower error {reply.error.code}.")
    try:
        envelope = envelope_from_records(reply.content)
        return Answer(node=node, message=decode(envelope, kind=kind), num_bytes=envelope.num_bytes)
    except MessageError as error:
        return Answer(node=node, failure=f"It sent bytes that are no valid message: {error}")


def envelope_to_records(envelope: Envelope, *, views: bool = False) -> RecordDict:
    """Put a message into Flower's records; ``views`` tells whether views of mapped files may stay such."""
    arrays = ArrayRecord(
        {
            name: Array(dtype=array.dtype, shape=array.shape, stype=_STYPE, data=b"" if views else bytes(array.data))
            for name, array in envelope.arrays.items()
        }
    )
    for name, array in envelope.arrays.items() if views else ():
        arrays[name].data = cast("bytes", array.data)  # Flower's constructor takes nothing but ``bytes``
    return RecordDict({"header": ConfigRecord({"json": envelope.header}), "arrays": arrays})


def envelope_from_records(records: RecordDict) -> Envelope:
    """Take a message out of Flower's records.

    Raises:
        MessageError: The records are not those of a Hansa message.
    """
    header, arrays = records.get("header"), records.get("arrays")
    if not isinstance(header, ConfigRecord) or not isinstance(arrays, ArrayRecord):
        raise MessageError("The records hold no Hansa message.")
    text = header.get("json")
    if not isinstance(text, bytes) or any(array.stype != _STYPE for array in arrays.values()):
        raise MessageError("The records hold no Hansa message.")
    return Envelope(
        header=text,
        arrays={
            name: RawArray(dtype=array.dtype, shape=tuple(array.shape), data=array.data)
            for name, array in arrays.items()
        },
    )
