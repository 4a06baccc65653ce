"""Typed messages between server and site; encode and decode, nothing else.

A message is a header (small, JSON), at most one vector ``float32 [P]`` and, by name, counts. With secure
aggregation it is a masked vector, masked sums and a statement of that protocol instead. On the wire it is an
``Envelope``: header bytes and raw little-endian arrays, each with the dtype, shape and length that it must have. There
is no pickle, no ``.npy`` header and no compression to parse.

Everything that comes in is hostile until ``decode`` has returned it. Whether a message belongs here and now (study,
round, size of the vector) is for the receiver to check.

Evolution: ``protocol`` counts up when a meaning changes; a peer with another number is refused by that number.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from hansa_common.errors import MessageError
from hansa_common.headers import (
    HEADER,
    MAX_HEADER,
    Baseline,
    BaselineTask,
    Confirmed,
    ConfirmTask,
    Delivered,
    DeliverTask,
    Evaluated,
    EvaluateTask,
    Explained,
    ExplainTask,
    Initial,
    InitialTask,
    MaskedEvaluated,
    MaskedExplained,
    MaskedUpdate,
    MaskingReply,
    MaskingTask,
    Opened,
    OpenTask,
    Refusal,
    Reply,
    SetUp,
    SetupTask,
    Statistics,
    StatisticsTask,
    Task,
    TrainTask,
    Unmasked,
    UnmaskTask,
    Update,
)
from hansa_common.metrics import Counts, CountsKind
from hansa_common.parameters import MAX_PARAMETERS, Vector

MAX_ARRAYS = 600_000  # arrays of one message: five for each of 100,000 sites, and the vector
MAX_ARRAY_NAME = 200  # characters
MAX_DIMENSIONS = 2
MAX_STATEMENT = 16 << 20  # bytes; an announcement of 100 sites is about 2 MiB
_DTYPES = ("<f4", "<i8", "<u2", "<u4", "<u8", "|u1")
_AnyArray = npt.NDArray[Any]
Masked = npt.NDArray[np.uint16] | npt.NDArray[np.uint32]
Sums = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message, parsed.

    Attributes:
        header: What it is and what it belongs to.
        vector: ``float32 [P]`` where the header carries one.
        counts: By name, where the header carries them; beside masked ones where the site's policy lets them out.
        masked: ``uint16`` or ``uint32`` ``[P]``, an update under masks.
        sums: ``uint64``, counts or statistics under masks, or statistics in the open.
        statement: Bytes of the secure aggregation's protocol.
        packed: The vector in the plan's codec, in its place.
    """

    header: Task | Reply
    vector: Vector | None = field(default=None, repr=False)
    counts: Mapping[str, Counts] = field(default_factory=dict, repr=False)
    masked: Masked | None = field(default=None, repr=False)
    sums: Sums | None = field(default=None, repr=False)
    statement: bytes = field(default=b"", repr=False)
    packed: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class RawArray:
    """An array on the wire: ``data`` is little-endian and C-contiguous, a view of bytes where a file is mapped."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes | memoryview = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """A message on the wire: what an engine carries."""

    header: bytes
    arrays: Mapping[str, RawArray] = field(default_factory=dict)

    @property
    def num_bytes(self) -> int:
        """Payload size in bytes, without what an engine adds to carry it."""
        return len(self.header) + sum(len(array.data) for array in self.arrays.values())


def encode(message: Message) -> Envelope:
    """Turn a message into bytes.

    Raises:
        RuntimeError: The message carries what its header does not announce; the caller's bug.
    """
    header = message.header
    has_vector = message.vector is not None or (bool(message.packed) and header.may_pack)
    if has_vector != header.carries_vector or _misfits(message):
        raise RuntimeError(f"A '{header.kind}' message carries the wrong arrays.")
    arrays: dict[str, RawArray] = {}
    if message.vector is not None:
        arrays["vector"] = _pack(message.vector, "<f4")
    if message.packed:
        arrays["packed"] = RawArray(dtype="|u1", shape=(len(message.packed),), data=message.packed)
    if message.masked is not None:
        arrays["masked"] = _pack(message.masked, message.masked.dtype.newbyteorder("<").str)
    if message.sums is not None:
        arrays["sums"] = _pack(message.sums, "<u8")
    if message.statement:
        arrays["statement"] = RawArray(dtype="|u1", shape=(len(message.statement),), data=message.statement)
    for name, counts in message.counts.items():
        arrays |= {f"counts/{name}/{key}": _pack(values, "<i8") for key, values in counts.to_arrays().items()}
    return Envelope(header=HEADER.dump_json(header), arrays=arrays)


def header_of(envelope: Envelope) -> Task | Reply:
    """Parse a message's header, and none of its arrays.

    Raises:
        MessageError: As ``decode``.
    """
    if len(envelope.header) > MAX_HEADER or len(envelope.arrays) > MAX_ARRAYS:
        raise MessageError(f"The message is too large: {len(envelope.header):,} bytes of header.")
    try:
        return HEADER.validate_json(envelope.header)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"])[:MAX_ARRAY_NAME]  # an unknown key is the peer's own text
        raise MessageError(f"The header is not valid at {where!a}: {first['msg']}.") from None


def decode(envelope: Envelope, *, kind: CountsKind | None = None) -> Message:
    """Parse a message from a peer.

    Args:
        envelope: What came in.
        kind: Of the plan's counts, needed for messages with counts.

    Raises:
        MessageError: The bytes are no message of this protocol; the text says which rule they break.
    """
    header = header_of(envelope)
    arrays = {name: _unpack(name, array) for name, array in envelope.arrays.items()}
    vector = arrays.pop("vector", None)
    packed = arrays.pop("packed", None)
    _check_type("packed", packed, "|u1")
    has_vector = vector is not None or (packed is not None and header.may_pack)
    if has_vector != header.carries_vector:
        raise MessageError(f"A '{header.kind}' message {'needs' if header.carries_vector else 'has no'} vector.")
    if vector is not None and (vector.dtype != np.float32 or vector.ndim != 1):
        raise MessageError("The vector is not one-dimensional float32.")
    masked, sums, statement = arrays.pop("masked", None), arrays.pop("sums", None), arrays.pop("statement", None)
    _check_type("masked", masked, "<u2", "<u4")
    _check_type("sums", sums, "<u8")
    _check_type("statement", statement, "|u1")
    if bool(arrays) and header.carries_counts is False:
        raise MessageError(f"A '{header.kind}' message has no counts.")
    message = Message(
        header=header,
        vector=vector,
        counts=_parse_counts(arrays, kind),
        masked=masked,
        sums=sums,
        statement=bytes(envelope.arrays["statement"].data) if statement is not None else b"",
        packed=bytes(envelope.arrays["packed"].data) if packed is not None else b"",
    )
    if problem := _misfits(message):
        raise MessageError(f"A '{header.kind}' message {problem}.")
    return message


def _misfits(message: Message) -> str:
    """Say what a message carries or lacks against its header, beside the vector; empty where all is well."""
    header = message.header
    for name, wanted, found in (
        ("counts", header.carries_counts, bool(message.counts)),
        ("masked update", header.carries_masked, message.masked is not None),
        ("masked sums", header.carries_sums, message.sums is not None),
        ("statement", header.carries_statement, bool(message.statement)),
    ):
        if wanted is not None and wanted != found:
            return f"{'needs' if wanted else 'has no'} {name}"
    if message.packed and (not header.may_pack or message.vector is not None):
        return "has packed values where it may have none"
    if len(message.statement) > MAX_STATEMENT:
        return f"has a statement of more than {MAX_STATEMENT:,} bytes"
    return ""


def _check_type(name: str, values: _AnyArray | None, *allowed: str) -> None:
    if values is not None and (values.dtype.str not in allowed or values.ndim != 1):
        raise MessageError(f"'{name}' is not one-dimensional {' or '.join(allowed)}.")


def _pack(values: _AnyArray, dtype: str) -> RawArray:
    """Make wire bytes; a vector that already is a view of a ``bytes`` object, or of a mapped file, is not copied."""
    base = values.base
    if isinstance(base, bytes | memoryview) and len(base) == values.nbytes and values.dtype == dtype:
        return RawArray(dtype=dtype, shape=values.shape, data=base)
    return RawArray(dtype=dtype, shape=values.shape, data=values.astype(dtype, copy=False).tobytes())


def _unpack(name: str, array: RawArray) -> _AnyArray:
    """Return a read-only view of the bytes once their number is what dtype and shape say."""
    if array.dtype not in _DTYPES:
        raise MessageError(f"An array has a dtype that is not allowed; allowed: {', '.join(_DTYPES)}.")
    if len(array.shape) > MAX_DIMENSIONS or any(not 0 <= size <= MAX_PARAMETERS for size in array.shape):
        raise MessageError("An array has a shape that is not allowed.")
    if math.prod(array.shape) * np.dtype(array.dtype).itemsize != len(array.data):
        raise MessageError(f"An array's length is not what its shape {array.shape} says.")
    if len(name) > MAX_ARRAY_NAME:
        raise MessageError(f"An array's name is longer than {MAX_ARRAY_NAME} characters.")
    values: _AnyArray = np.frombuffer(array.data, dtype=array.dtype)
    return values.reshape(array.shape)


def _parse_counts(arrays: Mapping[str, _AnyArray], kind: CountsKind | None) -> dict[str, Counts]:
    if not arrays:
        return {}
    if kind is None:
        raise MessageError("Counts came where none are expected.")
    groups: dict[str, dict[str, _AnyArray]] = {}
    for name, values in arrays.items():
        prefix, _, rest = name.partition("/")
        subject, _, key = rest.rpartition("/")
        if prefix != "counts" or not subject or not key:
            raise MessageError("An array has a name that is not allowed.")
        groups.setdefault(subject, {})[key] = values
    return {subject: kind.from_arrays(group) for subject, group in groups.items()}


__all__ = [
    "MAX_ARRAYS",
    "MAX_ARRAY_NAME",
    "MAX_HEADER",
    "MAX_STATEMENT",
    "Baseline",
    "BaselineTask",
    "ConfirmTask",
    "Confirmed",
    "DeliverTask",
    "Delivered",
    "Envelope",
    "EvaluateTask",
    "Evaluated",
    "ExplainTask",
    "Explained",
    "Initial",
    "InitialTask",
    "Masked",
    "MaskedEvaluated",
    "MaskedExplained",
    "MaskedUpdate",
    "MaskingReply",
    "MaskingTask",
    "Message",
    "OpenTask",
    "Opened",
    "RawArray",
    "Refusal",
    "Reply",
    "SetUp",
    "SetupTask",
    "Statistics",
    "StatisticsTask",
    "Sums",
    "Task",
    "TrainTask",
    "UnmaskTask",
    "Unmasked",
    "Update",
    "decode",
    "encode",
    "header_of",
]
