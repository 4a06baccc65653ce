"""The calls between a site and the coordinator, and their types.

gRPC carries bytes; every call's request and reply is a frozen type here, as JSON, read strictly and within a size.
Bulk data is not JSON: ``Download`` streams raw chunks down, ``Upload`` raw chunks behind one header up (``codec``).
Three services: ``Enrolment`` (no client certificate, an invitation or a node key proves who asks), ``Federation``
(client certificate) and, on a Unix socket of the coordinator's machine only, ``Coordinator``.

Versions: both ends say which they speak and use the newest that both do; none in common is a refusal. A server speaks
the newest and the one before. A key added with a default needs no new version; a changed meaning does.
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Final, Literal, Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import Field, TypeAdapter, ValidationError

from hansa_common.errors import MessageError, PeerRefused
from hansa_common.invitation import InvitationId
from hansa_common.plan_names import SiteName
from hansa_common.roster import Hash, SignedBinding, SignedRoster, UnixTime
from hansa_common.settings import Model, Strict
from hansa_common.signing import PublicKey, Signature, sign, verify

PROTOCOLS: Final = (1,)
"""Versions that this package speaks, in ascending order."""

ENROLMENT: Final = "hansa.Enrolment"
FEDERATION: Final = "hansa.Federation"
COORDINATOR: Final = "hansa.Coordinator"

MAX_CALL: Final = 16 << 20  # bytes of one JSON request or reply; a proposal may hold a plan of 8 MiB
CHUNK: Final = 256 << 10  # bytes of bulk data in one message: what a cut costs at most
_LONGEST_KEY: Final = 200  # characters, in the text of an error
DENIAL_KEY: Final = "hansa-denial"  # trailing metadata that names why a call was refused

Text = Annotated[str, Field(max_length=2_000)]
Nonce = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Token = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", repr=False)]
Pem = Annotated[str, Field(max_length=10_000)]
Size = Annotated[int, Field(ge=0, le=1 << 40)]
Counter = Annotated[int, Field(ge=1, le=2**53)]


class Denial(StrEnum):
    """Why a call was refused; a peer decides by these and never by text."""

    INVALID = "invalid"  # the request is not of its type, or too large
    PROTOCOL = "protocol"  # no version in common
    UNKNOWN = "unknown"  # the certificate names nobody of this federation
    NOT_A_MEMBER = "not-a-member"  # not in the roster, or with other keys
    REVOKED = "revoked"
    FROZEN = "frozen"  # two sessions claimed the same counter: a copied key
    NO_SESSION = "no-session"  # attach first
    SUPERSEDED = "superseded"  # a later session of this site took over
    NO_TASK = "no-task"  # there is no such task for this site, or it is closed
    TOO_LARGE = "too-large"
    OFFSET = "offset"  # the upload does not go on where the stored part ends
    DIGEST = "digest"  # the bytes are not those that were announced
    PROOF = "proof"  # invitation, signature or certificate request do not hold
    INVITATION = "invitation"  # unknown, used or expired
    FORBIDDEN = "forbidden"  # a call that this peer may not make
    BUSY = "busy"  # a limit on rate or number
    STORAGE = "storage"  # the server's disk is full or fails
    INTERNAL = "internal"


class TaskId(Strict):
    """Names one task, for ever: a redelivery has the same name, a repetition another attempt."""

    study: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,99}$")]
    step: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$")]
    """``open``, ``initial``, ``train-3``, ``evaluate``, ``deliver`` ..."""
    attempt: Annotated[int, Field(ge=1, le=1_000_000)]
    site: SiteName

    def __str__(self) -> str:
        return f"{self.study}:{self.step}:{self.attempt}:{self.site}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what ``str`` gives.

        Raises:
            MessageError: It is no task id.
        """
        parts = text.split(":", 3)
        try:
            task = cls(study=parts[0], step=parts[1], attempt=int(parts[2]), site=parts[3])
        except (IndexError, ValueError):
            raise MessageError("This is no task id.") from None
        if str(task) != text:  # int() also reads "+1", "1_0" and other scripts' digits
            raise MessageError("This is no task id.")
        return task


# --- Enrolment ---------------------------------------------------------------------------------------------------


class BeginRequest(Strict):
    """``Begin``: ask for a nonce, for an enrolment or for the recovery of an expired certificate."""

    protocols: Annotated[tuple[int, ...], Field(max_length=16)] = PROTOCOLS


class BeginReply(Strict):
    """The nonce is good once and for a few minutes."""

    nonce: Nonce
    server_time: float
    protocol: int
    roster: SignedRoster
    """The version in force."""


class EnrolRequest(Strict):
    """``Enrol``: prove the invitation and ask for a certificate. The same request again gets the same answer."""

    invitation: InvitationId
    nonce: Nonce
    roster: Hash
    """Digest of the roster named by the invitation; the site accepts it with ``acceptance``."""
    binding: SignedBinding
    certificate_request: Pem
    acceptance: Signature
    """By the node's signing key over the transcript, label ``acceptance``."""
    proof: Hash
    """``hansa_common.invitation.prove``."""


class CertificateReply(Strict):
    """A certificate and the authorities' certificates to trust."""

    certificate: Pem
    authorities: Annotated[tuple[Pem, ...], Field(min_length=1, max_length=4)]
    expires: UnixTime


class RecoverRequest(Strict):
    """``Recover``: renew an expired certificate with the node key that the roster binds."""

    site: SiteName
    nonce: Nonce
    certificate_request: Pem
    roster_version: Annotated[int, Field(ge=0)] = 0
    """The newest that the site has: it is certified by an authority that this one pins."""
    signature: Signature
    """By the node's signing key over ``{nonce, site, request: SHA-256 of the PEM}``, label ``recovery``."""


class NextRosterRequest(Strict):
    """``NextRoster``: the version after this one, for a site that was away; the reply is a ``RosterNotice``."""

    after: Annotated[int, Field(ge=0, le=1_000_000)]


# --- Federation --------------------------------------------------------------------------------------------------


class AttachRequest(Strict):
    """``Attach``: open the site's one session; the reply is a stream of notices that lasts as long as the session."""

    protocols: Annotated[tuple[int, ...], Field(max_length=16)] = PROTOCOLS
    version: Annotated[str, Field(max_length=64)]
    counter: Counter
    """Higher than in any session before; kept on the site's disk."""
    roster_version: Annotated[int, Field(ge=0)] = 0
    """The newest that the site has."""
    signature: Signature
    """By the node's signing key over ``{federation, site, counter}``, label ``session``."""


class Welcome(Strict):
    """First notice of a session."""

    kind: Literal["welcome"] = "welcome"
    protocol: int
    version: Text
    session: Token
    server_time: float
    heartbeat_seconds: Annotated[float, Field(gt=0, le=3_600)]
    """A notice comes at least this often; without one for three times as long, the site connects anew."""


class RosterNotice(Strict):
    """One version of the roster, in ascending order, from the one after the site's own."""

    kind: Literal["roster"] = "roster"
    roster: SignedRoster
    authorities: Annotated[tuple[Pem, ...], Field(max_length=4)] = ()
    """Certificates of the authorities that it pins, for those that the site has not seen."""


class Heartbeat(Strict):
    """The session lives."""

    kind: Literal["heartbeat"] = "heartbeat"


class Proposal(Strict):
    """A study that this site is asked to approve."""

    kind: Literal["proposal"] = "proposal"
    study: Annotated[str, Field(max_length=100)]
    """Id of the study at this coordinator."""
    plan: Annotated[str, Field(max_length=8 << 20)]
    """The plan as JSON; its digest is what is approved. For another Flower app an ``AppPlan``."""
    digest: Hash
    proposed_at: UnixTime


class StudyClosed(Strict):
    """A study is over, or its proposal withdrawn: there will be no more tasks of it."""

    kind: Literal["closed"] = "closed"
    study: Annotated[str, Field(max_length=100)]


class TaskNotice(Strict):
    """There is a task; it is repeated in each new session until it is replied to or closed."""

    kind: Literal["task"] = "task"
    task: TaskId
    size: Size
    sha256: Hash
    max_reply: Size
    seconds: Annotated[float, Field(ge=0, le=30 * 86_400)]
    """Until the server stops waiting."""


class TaskClosed(Strict):
    """A reply to this task is no longer wanted."""

    kind: Literal["task-closed"] = "task-closed"
    task: TaskId


Notice = Annotated[
    Welcome | RosterNotice | Heartbeat | Proposal | StudyClosed | TaskNotice | TaskClosed, Field(discriminator="kind")
]
_NOTICE: TypeAdapter[Welcome | RosterNotice | Heartbeat | Proposal | StudyClosed | TaskNotice | TaskClosed] = (
    TypeAdapter(Notice)
)
AnyNotice = Welcome | RosterNotice | Heartbeat | Proposal | StudyClosed | TaskNotice | TaskClosed


class DownloadRequest(Strict):
    """``Download``: the task's bytes from ``offset``; the reply is a stream of raw chunks."""

    session: Token
    task: TaskId
    offset: Size = 0


class UploadHeader(Strict):
    """``Upload``: first message of the stream; the rest are raw chunks that begin at ``offset``."""

    session: Token
    task: TaskId
    size: Size
    sha256: Hash
    offset: Size = 0


class StoredRequest(Strict):
    """``Stored``: how much of a reply does the server have?"""

    session: Token
    task: TaskId
    size: Size
    sha256: Hash


class StoredReply(Strict):
    """How much the server has, durably; ``complete`` acknowledges the reply: it will not be asked for again."""

    stored: Size
    complete: bool


class Decision(Strict):
    """A site's answer to a proposal."""

    federation: Text
    site: SiteName
    study: Annotated[str, Field(max_length=100)]
    digest: Hash
    approved: bool
    decided_at: UnixTime


class DecideRequest(Strict):
    """``Decide``: deliver a signed answer; the last one counts."""

    decision: Decision
    signature: Signature
    """By the node's signing key, label ``decision``."""

    def verify(self, key: PublicKey) -> None:
        """Return if the node with this signing key gave the answer.

        Raises:
            IdentityError: It did not.
        """
        verify(key, "decision", self.decision.model_dump(mode="json"), self.signature)


def sign_decision(decision: Decision, key: Ed25519PrivateKey) -> DecideRequest:
    """Sign an answer with the node's signing key."""
    return DecideRequest(decision=decision, signature=sign(key, "decision", decision.model_dump(mode="json")))


class ProposalsReply(Strict):
    """``Proposals``: all that are open for this site."""

    proposals: Annotated[tuple[Proposal, ...], Field(max_length=1_000)]


class RenewRequest(Strict):
    """``Renew``: a new certificate for the same TLS key, within a session."""

    session: Token
    certificate_request: Pem
    roster_version: Annotated[int, Field(ge=0)] = 0
    """The newest that the site has: it is certified by an authority that this one pins."""


class LeaveRequest(Strict):
    """``Leave``: the site is no longer to be asked; the founder takes it out of the roster."""

    site: SiteName
    left_at: UnixTime
    signature: Signature
    """By the node's signing key over ``{site, left_at}``, label ``leave``."""


class Empty(Strict):
    """Nothing to say."""


def agree(theirs: Sequence[int], ours: Sequence[int] = PROTOCOLS) -> int:
    """Return the newest version that both speak.

    Raises:
        PeerRefused: There is none.
    """
    common = set(theirs) & set(ours)
    if common:
        return max(common)
    behind = max(theirs, default=0) < max(ours)
    raise PeerRefused(
        f"No protocol version in common: here {_spell(ours)}, there {_spell(theirs)}.",
        denial=Denial.PROTOCOL,
        advice="Update Hansa at the site." if behind else "Update Hansa at the coordinator.",
    )


def dump(value: Strict) -> bytes:
    """Return a request or reply as bytes."""
    return value.model_dump_json().encode()


def load(kind: type[Model], content: bytes) -> Model:
    """Read a request or reply.

    Raises:
        MessageError: It is too large or not of this type; the message names the key and holds no value.
    """
    if len(content) > MAX_CALL:
        raise MessageError(f"A {kind.__name__} of {len(content):,} bytes is too large.")
    try:
        return kind.model_validate_json(content)
    except ValidationError as error:
        raise MessageError(_explain(kind.__name__, error)) from None


def load_notice(content: bytes) -> AnyNotice:
    """Read one notice of a session.

    Raises:
        MessageError: It is none.
    """
    if len(content) > MAX_CALL:
        raise MessageError(f"A notice of {len(content):,} bytes is too large.")
    try:
        return _NOTICE.validate_json(content)
    except ValidationError as error:
        raise MessageError(_explain("notice", error)) from None


def _explain(what: str, error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    where = ".".join(map(str, first["loc"]))[:_LONGEST_KEY]  # a key that is not known is the peer's own text
    return f"The {what} is not valid at {where!a}."


def _spell(versions: Sequence[int]) -> str:
    return ", ".join(map(str, versions)) or "none"
