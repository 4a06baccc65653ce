"""Flower messages over a local socket: no pickle, no copy of an array.

A frame is a fixed head (kind, lengths), a body (protobuf or text) and the arrays' bytes as they are. Both ends are
processes of one user on one machine, started by one of them; the limits catch a broken peer, not a hostile one.
"""

import io
import socket
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum

from flwr.app import Array, ArrayRecord, Message, RecordDict
from flwr.common.serde import message_from_proto, recorddict_from_proto, recorddict_to_proto
from flwr.common.serde_utils import error_to_proto, metadata_to_proto
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.proto.recorddict_pb2 import RecordDict as ProtoRecordDict

_HEAD = struct.Struct("!BQI")  # kind, bytes of the body, number of buffers
_LENGTH = struct.Struct("!Q")
_MAX_BODY = 1 << 30  # bytes
_MAX_BUFFERS = 1 << 24
_SMALL = 1 << 16  # bytes; below this one call to send everything is cheaper than several


class Kind(IntEnum):
    """What a frame is."""

    CONTENT = 1  # body: protobuf of records; the tasks that follow refer to it
    TASK = 2  # body: the message's metadata and the node's context; buffers: the context's arrays
    REPLY = 3  # body: metadata, records and the node's context; buffers: the arrays of both, in this order
    ERROR = 4  # body: text


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame, as received."""

    kind: Kind
    body: bytes
    buffers: list[bytes]


def send(channel: socket.socket, kind: Kind, body: bytes, buffers: Sequence[bytes] = ()) -> None:
    """Write one frame.

    Raises:
        OSError: The other end is gone.
    """
    lengths = b"".join(_LENGTH.pack(len(buffer)) for buffer in buffers)
    head = _HEAD.pack(kind, len(body), len(buffers)) + body + lengths
    if sum(map(len, buffers)) < _SMALL:
        channel.sendall(head + b"".join(buffers))
        return
    channel.sendall(head)
    for buffer in buffers:
        channel.sendall(buffer)


def receive(channel: socket.socket, *, before_arrays: Callable[[int], None] = lambda _size: None) -> Frame:
    """Read one frame; ``before_arrays`` is told how many bytes of arrays follow and may wait until there is room.

    Raises:
        EOFError: The other end is gone.
        OSError: It is gone in the middle, or a timeout set on the channel has passed.
    """
    kind, body_size, count = _HEAD.unpack(_read(channel, _HEAD.size))
    if body_size > _MAX_BODY or count > _MAX_BUFFERS:
        raise OSError("The other end sent something that is no frame.")
    body = _read(channel, body_size)
    lengths = [length for (length,) in _LENGTH.iter_unpack(_read(channel, count * _LENGTH.size))]
    before_arrays(sum(lengths))
    return Frame(Kind(kind), body, [_read(channel, length) for length in lengths])


def _read(channel: socket.socket, size: int) -> bytes:
    stream = io.BytesIO(bytes(size))  # filled in place, and its value is that very object: an array is there once
    with stream.getbuffer() as room:
        missing = size
        while missing:  # a channel with a timeout returns what has come, whatever the flags
            count = channel.recv_into(room[size - missing :], missing, socket.MSG_WAITALL)
            if not count:
                raise EOFError("The other end is gone.")
            missing -= count
    return stream.getvalue()


def join(parts: Sequence[bytes]) -> bytes:
    """Put byte strings into one body."""
    return b"".join(_LENGTH.pack(len(part)) + part for part in parts)


def part(body: bytes) -> list[bytes]:
    """Take a body apart again."""
    parts, offset = [], 0
    while offset < len(body):
        (length,) = _LENGTH.unpack_from(body, offset)
        offset += _LENGTH.size
        parts.append(body[offset : offset + length])
        offset += length
    return parts


def metadata_of(message: Message) -> bytes:
    """Return a message with empty records, or with its error, as protobuf bytes."""
    metadata = metadata_to_proto(message.metadata)
    if message.has_error():
        proto = ProtoMessage(metadata=metadata, error=error_to_proto(message.error))
    else:
        proto = ProtoMessage(metadata=metadata, content=ProtoRecordDict())
    return bytes(proto.SerializeToString())


def bare_message(metadata: bytes) -> Message:
    """Return the message that ``metadata_of`` wrote."""
    return message_from_proto(ProtoMessage.FromString(metadata))


def flatten(records: RecordDict) -> tuple[bytes, list[bytes]]:
    """Split records into small protobuf bytes and the arrays' own bytes, which are not copied."""
    skeleton = RecordDict(dict(records.items()))
    buffers: list[bytes] = []
    for key, arrays in _array_records(records):
        buffers.extend(array.data for array in arrays.values())
        skeleton[key] = ArrayRecord(
            {name: Array(array.dtype, tuple(array.shape), array.stype, b"") for name, array in arrays.items()}
        )
    return bytes(recorddict_to_proto(skeleton).SerializeToString()), buffers


def restore(body: bytes, buffers: Iterator[bytes]) -> RecordDict:
    """Put records together again, taking the arrays' bytes from ``buffers``."""
    records = recorddict_from_proto(ProtoRecordDict.FromString(body))
    for _key, arrays in _array_records(records):
        for array in arrays.values():
            array.data = next(buffers)
    return records


def _array_records(records: RecordDict) -> list[tuple[str, ArrayRecord]]:
    """Return the records with arrays in an order that both ends agree on."""
    return [(key, record) for key in sorted(records) if isinstance(record := records[key], ArrayRecord)]
