"""What sites and server say to each other, in bytes.

Every message opens with ``HSA``, a version, its kind, the plan's digest, round and attempt; then come the fields of its
``layout``, of lengths that follow from the plan's list of sites. So its size is known before it is read, there is one
way to write each value, and what does not fit is refused. Numbers are big-endian. A site is its place in the plan's
list, in one byte; a set of sites a bitmap, the first site in the lowest bit of the first byte.

Evolution: the version counts up when a layout or a meaning changes; another one is refused by its number.
"""

import hashlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Self

from hansa_common.errors import MessageError
from hansa_common.secagg.sharing import SHARE_BYTES
from hansa_common.secagg.terms import Terms, Turn

VERSION = 1
KEY_BYTES = 32
HASH_BYTES = 32
BOX_BYTES = KEY_BYTES + 2 * SHARE_BYTES + 16  # throw-away key, both shares, tag of Poly1305
_SIGNATURE_BYTES = 64
NO_SIGNATURE = bytes(_SIGNATURE_BYTES)
"""Stands in a message before it is signed."""
_MAGIC = b"HSA"
_HEAD = struct.Struct(">3sBB32sIH")


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """How one field is written."""

    what: Literal["bytes", "site", "sites", "number"] = "bytes"
    width: int = 1
    each: bool = False
    """``width`` bytes for each site of the plan."""

    def size(self, terms: Terms) -> int:
        """Return its length in bytes."""
        if self.what == "sites":
            return terms.bitmap_bytes
        return self.width * (terms.n if self.each else 1)

    def write(self, value: Any, terms: Terms) -> bytes:
        """Return the one way to write a value.

        Raises:
            MessageError: A site is not of the plan.
            ValueError: The value has another length than its place.
        """
        match self.what:
            case "site":
                return bytes([terms.index(value)])
            case "sites":
                return terms.pack(value)
            case "number":
                return bytes([value])
            case _:
                content = bytes(value)
                if len(content) != self.size(terms):
                    raise ValueError(f"A field of {self.size(terms)} bytes cannot hold {len(content)}.")
                return content

    def read(self, content: bytes, terms: Terms) -> Any:
        """Return the value.

        Raises:
            MessageError: It names a site that the plan does not have.
        """
        match self.what:
            case "site":
                if content[0] >= terms.n:
                    raise MessageError(f"A message names site number {content[0]}; the plan has {terms.n} sites.")
                return terms.sites[content[0]]
            case "sites":
                return terms.unpack(content)
            case "number":
                return content[0]
            case _:
                return content


_SITE, _SITES, _NUMBER = Part(what="site"), Part(what="sites"), Part(what="number")
_KEY, _HASH, _SIGNATURE = Part(width=KEY_BYTES), Part(width=HASH_BYTES), Part(width=_SIGNATURE_BYTES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """What all messages have: the terms that fix their layout, and the turn that they belong to."""

    kind: ClassVar[int]
    name: ClassVar[str]
    layout: ClassVar[Mapping[str, Part]]
    terms: Terms = field(repr=False)
    turn: Turn

    @classmethod
    def size(cls, terms: Terms) -> int:
        """Return the length in bytes that it has under these terms."""
        return _HEAD.size + sum(part.size(terms) for part in cls.layout.values())

    def to_bytes(self) -> bytes:
        """Return the one way to write it."""
        return self._bytes(tuple(self.layout))

    @classmethod
    def from_bytes(cls, data: bytes, terms: Terms) -> Self:
        """Parse it.

        Raises:
            MessageError: It is no such message, or one of another plan.
        """
        if len(data) != cls.size(terms):
            raise cls._error(f"{len(data):,} bytes, not {cls.size(terms):,}")
        turn, offset, values = cls._parse_head(data, terms), _HEAD.size, {}
        for name, part in cls.layout.items():
            width = part.size(terms)
            values[name] = part.read(data[offset : offset + width], terms)
            offset += width
        return cls(terms=terms, turn=turn, **values)

    def _bytes(self, names: tuple[str, ...]) -> bytes:
        return self._head() + b"".join(self.layout[name].write(getattr(self, name), self.terms) for name in names)

    def _head(self) -> bytes:
        turn = self.turn
        return _HEAD.pack(_MAGIC, VERSION, self.kind, bytes.fromhex(turn.plan_digest), turn.round, turn.attempt)

    @classmethod
    def _parse_head(cls, data: bytes, terms: Terms) -> Turn:
        magic, version, kind, plan, round_number, attempt = _HEAD.unpack_from(data)
        if magic != _MAGIC or kind != cls.kind:
            raise cls._error("something else")
        if version != VERSION:
            raise cls._error(f"version {version}, and this installation knows version {VERSION}")
        if plan.hex() != terms.plan_digest:
            raise cls._error("one of another plan")
        return Turn(plan_digest=terms.plan_digest, round=round_number, attempt=attempt)

    @classmethod
    def _error(cls, found: str) -> MessageError:
        return MessageError(f"Expected a {cls.name}; found {found}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Signed(Message):
    """A message whose last field is its site's signature over all bytes before."""

    label: ClassVar[str]
    site: str
    signature: bytes = field(repr=False)

    def statement(self) -> dict[str, str]:
        """Return what the site signs under ``label``."""
        body = self._bytes(tuple(self.layout)[:-1])
        return {"site": self.site, "digest": hashlib.sha256(body).hexdigest()}


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyKey(Signed):
    """A site's X25519 key for this study. It belongs to no turn; round 0, attempt 1 stands there."""

    kind: ClassVar[int] = 1
    name: ClassVar[str] = "study key"
    label: ClassVar[str] = "secagg-key"
    layout: ClassVar[Mapping[str, Part]] = {"site": _SITE, "key": _KEY, "signature": _SIGNATURE}
    key: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup(Signed):
    """A site's secrets for one turn, dealt out in boxes that only their receivers can open."""

    kind: ClassVar[int] = 2
    name: ClassVar[str] = "setup"
    label: ClassVar[str] = "secagg-setup"
    layout: ClassVar[Mapping[str, Part]] = {
        "site": _SITE,
        "threshold": _NUMBER,
        "keys_digest": _HASH,
        "study_key": _KEY,
        "public": _KEY,
        "seed_commitment": _HASH,
        "share_commitments": Part(width=2 * HASH_BYTES, each=True),
        "boxes": Part(width=BOX_BYTES, each=True),
        "signature": _SIGNATURE,
    }
    threshold: int
    keys_digest: bytes
    """Of the study keys for which the boxes were made."""
    study_key: bytes
    """The dealer's own study key."""
    public: bytes
    """``pk_i``, the X25519 key of this turn."""
    seed_commitment: bytes
    share_commitments: bytes = field(repr=False)
    """For each site of the plan: of its share of the seed, of its share of ``sk_i``."""
    boxes: bytes = field(repr=False)
    """For each site of the plan."""

    def digest(self) -> bytes:
        """Return the SHA-256 of the whole message."""
        return hashlib.sha256(self.to_bytes()).digest()

    def box(self, place: int) -> bytes:
        """Return the box for the site at a place in the plan's list."""
        return self.boxes[place * BOX_BYTES : (place + 1) * BOX_BYTES]

    def commitments(self, place: int) -> tuple[bytes, bytes]:
        """Return the commitments to a site's shares: of the seed, of the secret key."""
        start, middle = 2 * place * HASH_BYTES, (2 * place + 1) * HASH_BYTES
        return self.share_commitments[start:middle], self.share_commitments[middle : middle + HASH_BYTES]


@dataclass(frozen=True, slots=True, kw_only=True)
class Announcement(Message):
    """``R_r``: who takes part in this turn, with all their setups, in ascending order; the same bytes to every site."""

    kind: ClassVar[int] = 3
    name: ClassVar[str] = "announcement"
    layout: ClassVar[Mapping[str, Part]] = {"sites": _SITES}
    setups: tuple[Setup, ...] = field(repr=False)

    @property
    def sites(self) -> tuple[str, ...]:
        """Who takes part."""
        return tuple(setup.site for setup in self.setups)

    @classmethod
    def size(cls, terms: Terms) -> int:
        """Return the greatest length in bytes; the bitmap says which of the setups are there."""
        return _HEAD.size + terms.bitmap_bytes + terms.n * Setup.size(terms)

    def to_bytes(self) -> bytes:
        """Return the one way to write it."""
        return self._bytes(("sites",)) + b"".join(setup.to_bytes() for setup in self.setups)

    @classmethod
    def from_bytes(cls, data: bytes, terms: Terms) -> Self:
        """Parse it.

        Raises:
            MessageError: It is no announcement of this plan.
        """
        start, each = _HEAD.size + terms.bitmap_bytes, Setup.size(terms)
        if not start <= len(data) <= cls.size(terms):
            raise cls._error(f"{len(data):,} bytes, not at most {cls.size(terms):,}")
        turn, sites = cls._parse_head(data, terms), terms.unpack(data[_HEAD.size : start])
        if len(data) != start + each * len(sites):
            raise cls._error(f"{len(data):,} bytes for {len(sites)} setups")
        offsets = range(start, len(data), each)
        setups = tuple(Setup.from_bytes(data[offset : offset + each], terms) for offset in offsets)
        if tuple(setup.site for setup in setups) != sites or any(setup.turn != turn for setup in setups):
            raise cls._error("a setup of another site or turn in it")
        return cls(terms=terms, turn=turn, setups=setups)

    def digest(self) -> bytes:
        """Return ``H(R_r)``: over turn, ids, keys and the hashes of the setups."""
        parts = [part for setup in self.setups for part in (setup.site, setup.public, setup.digest())]
        return self.turn.digest("announcement", *parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskedInput(Message):
    """What a masked vector belongs to; the words themselves travel beside it."""

    kind: ClassVar[int] = 4
    name: ClassVar[str] = "masked input"
    layout: ClassVar[Mapping[str, Part]] = {"site": _SITE, "announcement": _HASH, "model": _HASH}
    site: str
    announcement: bytes
    model: bytes
    """SHA-256 of the model that the update was made from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Survivors(Message):
    """``U``: whose masked inputs are in the sum."""

    kind: ClassVar[int] = 5
    name: ClassVar[str] = "set of survivors"
    layout: ClassVar[Mapping[str, Part]] = {"announcement": _HASH, "sites": _SITES}
    announcement: bytes
    sites: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirmation(Signed):
    """A survivor's word that ``U`` is the only set it signs for this turn, with the head of its log."""

    kind: ClassVar[int] = 6
    name: ClassVar[str] = "confirmation"
    label: ClassVar[str] = "secagg-survivors"
    layout: ClassVar[Mapping[str, Part]] = {
        "site": _SITE,
        "announcement": _HASH,
        "model": _HASH,
        "survivors": _SITES,
        "head": _HASH,
        "study_key": _KEY,
        "signature": _SIGNATURE,
    }
    announcement: bytes
    model: bytes
    survivors: tuple[str, ...]
    head: bytes
    """Of the site's log."""
    study_key: bytes
    """The site's own."""

    def subject(self) -> tuple[Turn, bytes, bytes, tuple[str, ...]]:
        """Return what all survivors must agree on: turn, announcement, model, set."""
        return self.turn, self.announcement, self.model, self.survivors


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer(Signed):
    """A survivor's shares: of the seed of each survivor, of the secret key of each site that dropped out."""

    kind: ClassVar[int] = 7
    name: ClassVar[str] = "answer"
    label: ClassVar[str] = "secagg-answer"
    layout: ClassVar[Mapping[str, Part]] = {
        "site": _SITE,
        "announcement": _HASH,
        "survivors": _SITES,
        "shares": Part(width=SHARE_BYTES, each=True),
        "signature": _SIGNATURE,
    }
    announcement: bytes
    survivors: tuple[str, ...]
    shares: bytes = field(repr=False)
    """For each site of the plan; zeros for those that do not take part."""

    def share(self, place: int) -> bytes:
        """Return the share of the secret of the site at a place in the plan's list."""
        return self.shares[place * SHARE_BYTES : (place + 1) * SHARE_BYTES]
