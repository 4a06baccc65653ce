"""What the agent and its worker process say to each other over a socket pair: a line of JSON and a parcel.

    u32 bytes of JSON | u64 bytes of the parcel | JSON | parcel

The agent takes nothing on trust: sizes are bounded, the parcel is parsed like one from the network.
"""

import json
import socket
import struct
from collections.abc import Mapping
from typing import Any, Final

from hansa_common.errors import MessageError
from hansa_common.messages import Envelope
from hansa_common.wire.codec import Kind, Parcel, parse

_HEAD: Final = struct.Struct("!IQ")
_MAX_HEAD: Final = 64 << 20  # bytes
MAX_PARCEL: Final = 32 << 30  # bytes


def send(channel: socket.socket, head: Mapping[str, Any], envelope: Envelope | None = None) -> None:
    """Write one frame.

    Raises:
        OSError: The other end is gone, or a timeout set on the channel has passed.
    """
    text = json.dumps(head).encode()
    pieces = list(Parcel(kind=Kind.HANSA, envelope=envelope).pieces()) if envelope is not None else []
    channel.sendall(_HEAD.pack(len(text), sum(map(len, pieces))) + text)
    for piece in pieces:
        channel.sendall(piece)


def receive(channel: socket.socket, *, most: int = MAX_PARCEL) -> tuple[dict[str, Any], Envelope | None]:
    """Read one frame.

    Args:
        channel: This end of the socket pair.
        most: Bytes of the largest parcel to take.

    Raises:
        EOFError: The other end is gone.
        OSError: It is gone in the middle, or a timeout has passed.
        MessageError: It sent something that is no frame.
    """
    head_size, parcel_size = _HEAD.unpack(_read(channel, _HEAD.size))
    if head_size > _MAX_HEAD or parcel_size > most:
        raise MessageError("The worker sent something that is no frame.")
    try:
        head = json.loads(_read(channel, head_size))
    except (ValueError, RecursionError):
        raise MessageError("The worker sent something that is no frame.") from None
    if not isinstance(head, dict):
        raise MessageError("The worker sent something that is no frame.")
    return head, parse(_read(channel, parcel_size)).envelope if parcel_size else None


def _read(channel: socket.socket, size: int) -> bytes:
    content = bytearray(size)
    view, missing = memoryview(content), size
    while missing:
        count = channel.recv_into(view[size - missing :], missing)
        if not count:
            raise EOFError("The other end is gone.")
        missing -= count
    return bytes(content)
