"""Typed messages between server and site; encode and decode, nothing else.

A message is a header (small, JSON), at most one vector ``float32 [P]`` and, by name, classification counts. With secure
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
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, TypeAdapter, ValidationError

from hansa_common.errors import MessageError
from hansa_common.metrics import ClassificationCounts
from hansa_common.parameters import MAX_PARAMETERS, ParameterSpec, Vector
from hansa_common.plan import SiteName
from hansa_common.settings import Strict
from hansa_common.signing import PublicKey

MAX_HEADER = 8 << 20  # bytes; a plan with 10,000 columns is about 1 MiB
MAX_ARRAYS = 600_000  # arrays of one message: five for each of 100,000 sites, and the vector
MAX_ARRAY_NAME = 200  # characters
MAX_DIMENSIONS = 2
MAX_STATEMENT = 16 << 20  # bytes; an announcement of 100 sites is about 2 MiB
MAX_SITES = 100  # that mask together
_DTYPES = ("<f4", "<i8", "<u2", "<u4", "<u8", "|u1")
_AnyArray = npt.NDArray[Any]
Masked = npt.NDArray[np.uint16] | npt.NDArray[np.uint32]
Sums = npt.NDArray[np.uint64]

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
RoundNumber = Annotated[int, Field(ge=0, le=1_000_000)]
Count = Annotated[int, Field(ge=0, le=2**53)]
Seconds = Annotated[float, Field(ge=0.0, le=1e9)]
Loss = Annotated[float, Field(ge=0.0, le=1e30)]
Text = Annotated[str, Field(max_length=2_000)]
Attempt = Annotated[int, Field(ge=1, lt=1 << 16)]
Statement = Annotated[str, Field(pattern=r"^(?:[0-9a-f]{2}){1,500}$")]
"""Bytes of the secure aggregation's protocol in hexadecimal digits."""


class _Header(Strict):
    protocol: Literal[1] = 1
    carries_vector: ClassVar[bool] = False
    carries_counts: ClassVar[bool | None] = False
    """``None``: unless the plan's protection keeps them at the site."""
    carries_masked: ClassVar[bool] = False
    carries_sums: ClassVar[bool] = False
    carries_statement: ClassVar[bool | None] = False
    """``None``: with secure aggregation only."""


class OpenTask(_Header):
    """Server to site: prepare for this study; check the data against its contract."""

    kind: Literal["open"] = "open"
    plan: Annotated[str, Field(max_length=MAX_HEADER)]
    """The plan as JSON. A simulated site also reads ``simulation`` in it, a real one only the approved part."""


class Opened(_Header):
    """Site to server: ready, and what it brings."""

    kind: Literal["opened"] = "opened"
    plan_digest: Digest
    site: SiteName
    train: Count
    validation: Count
    test: Count
    class_counts: Annotated[tuple[Count, ...], Field(max_length=10_000)]
    """Empty, and the sizes 0, where the plan's protection or the site's policy keeps them at home."""
    origin: Text
    version: Text
    device: Text
    study_key: Statement | None = None
    """With secure aggregation: the site's key for this study, signed by it."""
    signing_key: PublicKey | None = None
    """Of a simulated site, whose keys no roster has."""


class InitialTask(_Header):
    """Server to one site: initialise the model with the plan's seed."""

    kind: Literal["initial-task"] = "initial-task"
    plan_digest: Digest


class Initial(_Header):
    """Site to server: the tensors of the model and their initial values."""

    kind: Literal["initial"] = "initial"
    carries_vector: ClassVar[bool] = True
    plan_digest: Digest
    spec: ParameterSpec


class TrainTask(_Header):
    """Server to site: evaluate these parameters on the validation split, then train from them."""

    kind: Literal["train"] = "train"
    carries_vector: ClassVar[bool] = True
    carries_statement: ClassVar[bool | None] = None
    plan_digest: Digest
    round: RoundNumber
    attempt: Attempt
    next_attempt: Annotated[int, Field(ge=0, lt=1 << 16)] = 0
    """With secure aggregation: attempt of the next round, whose setup comes with the update; 0 asks for none."""


class Update(_Header):
    """Site to server: the delta, and counts of the incoming model on the validation split."""

    kind: Literal["update"] = "update"
    carries_vector: ClassVar[bool] = True
    carries_counts: ClassVar[bool | None] = None
    plan_digest: Digest
    round: RoundNumber
    attempt: Attempt
    site: SiteName
    num_examples: Count
    train_loss: Loss
    steps: Count
    seconds: Seconds
    train_seconds: Seconds


class EvaluateTask(_Header):
    """Server to site: count what these parameters get right; the closing exchange of a study."""

    kind: Literal["evaluate"] = "evaluate"
    carries_vector: ClassVar[bool] = True
    carries_statement: ClassVar[bool | None] = None
    plan_digest: Digest
    round: RoundNumber = 0
    """With secure aggregation: one more than the plan has, for the counts are summed as a round of their own."""
    attempt: Attempt = 1
    subject: Literal["site", "coordinator"] = "site"
    """``coordinator``: the test set that no site has; only in a simulation."""


class Evaluated(_Header):
    """Site to server: counts named ``validation`` and ``test``."""

    kind: Literal["evaluated"] = "evaluated"
    carries_counts: ClassVar[bool | None] = None
    plan_digest: Digest
    site: SiteName
    seconds: Seconds


class SetupTask(_Header):
    """Server to site: prepare to mask one round."""

    kind: Literal["setup"] = "setup"
    plan_digest: Digest
    round: RoundNumber
    attempt: Attempt
    study_keys: Annotated[tuple[Statement, ...], Field(max_length=MAX_SITES)]
    """Of the sites that opened the study, each signed by its site."""
    signing_keys: Annotated[dict[SiteName, PublicKey], Field(max_length=MAX_SITES)] = Field(default_factory=dict)
    """Of simulated sites; a real site knows the others by its own roster and reads nothing here."""


class SetUp(_Header):
    """Site to server: its setup, signed."""

    kind: Literal["set-up"] = "set-up"
    carries_statement: ClassVar[bool | None] = True
    plan_digest: Digest
    round: RoundNumber
    attempt: Attempt
    site: SiteName


class MaskedUpdate(_Header):
    """Site to server: the update and the counts under masks, and the setup for the next round where it was asked for.

    The counts of one site are beside them only if its own policy lets them out.
    """

    kind: Literal["masked-update"] = "masked-update"
    carries_counts: ClassVar[bool | None] = None
    carries_masked: ClassVar[bool] = True
    carries_sums: ClassVar[bool] = True
    carries_statement: ClassVar[bool | None] = True
    plan_digest: Digest
    round: RoundNumber
    attempt: Attempt
    site: SiteName
    seconds: Seconds
    train_seconds: Seconds


class MaskedEvaluated(_Header):
    """Site to server: the counts of ``EvaluateTask`` under masks."""

    kind: Literal["masked-evaluated"] = "masked-evaluated"
    carries_counts: ClassVar[bool | None] = None
    carries_sums: ClassVar[bool] = True
    carries_statement: ClassVar[bool | None] = True
    plan_digest: Digest
    round: RoundNumber
    attempt: Attempt
    site: SiteName
    seconds: Seconds


class ConfirmTask(_Header):
    """Server to site: these sites' masked inputs arrived; sign that they are the ones that are added."""

    kind: Literal["confirm"] = "confirm"
    carries_statement: ClassVar[bool | None] = True
    plan_digest: Digest
    round: RoundNumber
    attempt: Attempt


class Confirmed(_Header):
    """Site to server: its signature under the survivors."""

    kind: Literal["confirmed"] = "confirmed"
    carries_statement: ClassVar[bool | None] = True
    plan_digest: Digest
    round: RoundNumber
    attempt: Attempt
    site: SiteName


class UnmaskTask(_Header):
    """Server to site: enough sites signed; hand out what removes the masks from the sum."""

    kind: Literal["unmask"] = "unmask"
    plan_digest: Digest
    round: RoundNumber
    attempt: Attempt
    confirmations: Annotated[tuple[Statement, ...], Field(min_length=1, max_length=MAX_SITES)]


class Unmasked(_Header):
    """Site to server: its shares."""

    kind: Literal["unmasked"] = "unmasked"
    carries_statement: ClassVar[bool | None] = True
    plan_digest: Digest
    round: RoundNumber
    attempt: Attempt
    site: SiteName


class BaselineTask(_Header):
    """Server to site: train without federation, from the initial parameters, with the study's whole budget."""

    kind: Literal["baseline-task"] = "baseline-task"
    carries_vector: ClassVar[bool] = True
    plan_digest: Digest
    subject: Literal["local", "pooled"]
    """``pooled``: on all sites' data together; only in a simulation."""


class Baseline(_Header):
    """Site to server: the baseline's counts on test splits, named by site."""

    kind: Literal["baseline"] = "baseline"
    carries_counts: ClassVar[bool | None] = True
    plan_digest: Digest
    subject: Literal["local", "pooled"]
    site: SiteName
    seconds: Seconds


class DeliverTask(_Header):
    """Server to site: the study's last model, to keep."""

    kind: Literal["deliver"] = "deliver"
    carries_vector: ClassVar[bool] = True
    plan_digest: Digest
    spec: ParameterSpec
    card: Annotated[str, Field(max_length=1 << 20)]
    """The model card, as Markdown."""
    sha256: Digest
    """Of the vector's bytes, as in metrics.json."""


class Delivered(_Header):
    """Site to server: the model lies on the site's disk."""

    kind: Literal["delivered"] = "delivered"
    plan_digest: Digest
    site: SiteName


class Refusal(_Header):
    """Site to server: the task was not done; ``code`` is an error class, ``reason`` holds no value from the data."""

    kind: Literal["refusal"] = "refusal"
    code: Annotated[str, Field(max_length=64)]
    site: SiteName
    reason: Text


MaskingTask = SetupTask | ConfirmTask | UnmaskTask
MaskingReply = SetUp | Confirmed | Unmasked
Task = OpenTask | InitialTask | TrainTask | EvaluateTask | BaselineTask | DeliverTask | MaskingTask
Reply = (
    Opened
    | Initial
    | Update
    | Evaluated
    | Baseline
    | Delivered
    | Refusal
    | MaskedUpdate
    | MaskedEvaluated
    | MaskingReply
)
Header = Annotated[Task | Reply, Field(discriminator="kind")]
_HEADER: TypeAdapter[Task | Reply] = TypeAdapter(Header)


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message, parsed.

    Attributes:
        header: What it is and what it belongs to.
        vector: ``float32 [P]`` where the header carries one.
        counts: By name, where the header carries them; beside masked ones where the site's policy lets them out.
        masked: ``uint16`` or ``uint32`` ``[P]``, an update under masks.
        sums: ``uint64``, counts under masks.
        statement: Bytes of the secure aggregation's protocol.
    """

    header: Task | Reply
    vector: Vector | None = field(default=None, repr=False)
    counts: Mapping[str, ClassificationCounts] = field(default_factory=dict, repr=False)
    masked: Masked | None = field(default=None, repr=False)
    sums: Sums | None = field(default=None, repr=False)
    statement: bytes = field(default=b"", repr=False)


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
    if (message.vector is not None) != header.carries_vector or _misfits(message):
        raise RuntimeError(f"A '{header.kind}' message carries the wrong arrays.")
    arrays: dict[str, RawArray] = {}
    if message.vector is not None:
        arrays["vector"] = _pack(message.vector, "<f4")
    if message.masked is not None:
        arrays["masked"] = _pack(message.masked, message.masked.dtype.newbyteorder("<").str)
    if message.sums is not None:
        arrays["sums"] = _pack(message.sums, "<u8")
    if message.statement:
        arrays["statement"] = RawArray(dtype="|u1", shape=(len(message.statement),), data=message.statement)
    for name, counts in message.counts.items():
        arrays |= {f"counts/{name}/{key}": _pack(values, "<i8") for key, values in counts.to_arrays().items()}
    return Envelope(header=_HEADER.dump_json(header), arrays=arrays)


def decode(envelope: Envelope, *, classes: int | None = None) -> Message:
    """Parse a message from a peer.

    Args:
        envelope: What came in.
        classes: ``K`` of the study, needed for messages with counts.

    Raises:
        MessageError: The bytes are no message of this protocol; the text says which rule they break.
    """
    if len(envelope.header) > MAX_HEADER or len(envelope.arrays) > MAX_ARRAYS:
        raise MessageError(f"The message is too large: {len(envelope.header):,} bytes of header.")
    try:
        header = _HEADER.validate_json(envelope.header)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"])[:MAX_ARRAY_NAME]  # an unknown key is the peer's own text
        raise MessageError(f"The header is not valid at {where!a}: {first['msg']}.") from None
    arrays = {name: _unpack(name, array) for name, array in envelope.arrays.items()}
    vector = arrays.pop("vector", None)
    if (vector is not None) != header.carries_vector:
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
        counts=_parse_counts(arrays, classes),
        masked=masked,
        sums=sums,
        statement=bytes(envelope.arrays["statement"].data) if statement is not None else b"",
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


def _parse_counts(arrays: Mapping[str, _AnyArray], classes: int | None) -> dict[str, ClassificationCounts]:
    if not arrays:
        return {}
    if classes is None:
        raise MessageError("Counts came where none are expected.")
    groups: dict[str, dict[str, _AnyArray]] = {}
    for name, values in arrays.items():
        prefix, _, rest = name.partition("/")
        subject, _, key = rest.rpartition("/")
        if prefix != "counts" or not subject or not key:
            raise MessageError("An array has a name that is not allowed.")
        groups.setdefault(subject, {})[key] = values
    return {subject: ClassificationCounts.from_arrays(group, classes) for subject, group in groups.items()}
