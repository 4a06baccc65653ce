"""A small league with fixed keys: sites, their memories, and a server, without any network."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from hansa_common.secagg import (
    Announcement,
    Answer,
    Confirmation,
    MaskedInput,
    ServerSession,
    SiteMemory,
    SiteSession,
    StudyKey,
    Survivors,
    Terms,
)
from hansa_common.signing import public_hex

Words = npt.NDArray[Any]
MODEL = hashlib.sha256(b"model").digest()


class League:
    """``n`` sites of one plan; ``site(0)`` is the first in ascending order."""

    def __init__(self, n: int = 4, *, cohort: Any = "changing", bits: Any = 32, d: int = 5, c: int = 2) -> None:
        names = tuple(f"site-{number:03}" for number in range(n))
        self.terms = Terms(plan_digest="ab" * 32, sites=names, cohort=cohort, ring_bits=bits)
        self.names, self.d, self.c = names, d, c
        self.signing = {name: self.signing_key(name) for name in names}
        self.study = {name: self.study_key(name) for name in names}
        self.directory = {name: public_hex(key) for name, key in self.signing.items()}
        self.memory = {name: SiteMemory() for name in names}
        self.sessions: dict[str, SiteSession] = {}
        for name in names:
            self.start(name)
        self.keys = [self.sessions[name].study_key_statement() for name in names]
        self.inputs: dict[str, tuple[Words, Words]] = {}

    @staticmethod
    def signing_key(name: str) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(b"signing " + name.encode()).digest())

    @staticmethod
    def study_key(name: str) -> X25519PrivateKey:
        return X25519PrivateKey.from_private_bytes(hashlib.sha256(b"study " + name.encode()).digest())

    def start(self, name: str, **changes: Any) -> SiteSession:
        """(Re)start a site from what it saved."""

        def save(memory: SiteMemory) -> None:
            self.memory[name] = SiteMemory.model_validate_json(memory.model_dump_json())

        arguments: dict[str, Any] = {
            "terms": self.terms,
            "site": name,
            "signing": self.signing[name],
            "study_key": self.study[name],
            "directory": self.directory,
            "memory": self.memory[name],
            "save": save,
        }
        self.sessions[name] = SiteSession(**(arguments | changes))
        return self.sessions[name]

    def site(self, number: int) -> SiteSession:
        return self.sessions[self.names[number]]

    def server(self, round_number: int = 1, attempt: int = 1, *, trusting: bool = False) -> ServerSession:
        """``trusting``: it checks no signature, as a dishonest one would not."""
        return ServerSession(
            terms=self.terms,
            round_number=round_number,
            attempt=attempt,
            size=self.d,
            counts=self.c,
            keys=self.keys,
            directory=None if trusting else self.directory,
        )

    def draw(self, name: str, seed: int = 0) -> tuple[Words, Words]:
        random = np.random.default_rng([seed, self.names.index(name)])
        vector = random.integers(0, 1 << self.terms.ring_bits, self.d, dtype=np.uint64).astype(self.terms.dtype)
        counts = random.integers(0, 1 << 40, self.c, dtype=np.uint64)
        return vector, counts

    def expected(self, names: Iterable[str], seed: int = 0) -> tuple[list[int], list[int]]:
        """The plain sum, in Python's integers."""
        drawn = [self.draw(name, seed) for name in names]
        vectors, counts = zip(*drawn, strict=True)
        return (
            [sum(int(vector[place]) for vector in vectors) % 2**self.terms.ring_bits for place in range(self.d)],
            [sum(int(count[place]) for count in counts) % 2**64 for place in range(self.c)],
        )

    def announce(
        self, server: ServerSession, names: Sequence[str] | None = None, *, turn: tuple[int, int] = (1, 1)
    ) -> Announcement:
        for name in self.names if names is None else names:
            server.add_setup(self.sessions[name].setup(turn[0], turn[1], self.keys))
        self.last = server.announce(MODEL)
        return self.last

    def masked(
        self, name: str, announcement: Announcement, *, seed: int = 0, model: bytes = MODEL
    ) -> tuple[MaskedInput, Words, Words]:
        vector, counts = self.draw(name, seed)
        return self.sessions[name].mask(announcement, model, vector, counts), vector, counts

    def until_masked(
        self, server: ServerSession, *, setups: Sequence[str] | None = None, masked: Sequence[str] | None = None
    ) -> Announcement:
        announcement = self.announce(server, setups)
        for name in announcement.sites if masked is None else masked:
            server.add_masked(*self.masked(name, announcement))
        return announcement

    def until_confirmed(self, server: ServerSession, **who: Any) -> tuple[Announcement, Survivors, list[Confirmation]]:
        announcement = self.until_masked(server, **who)
        survivors = server.survivors()
        confirmations = [self.sessions[name].confirm(survivors) for name in survivors.sites]
        for confirmation in confirmations:
            server.add_confirmation(confirmation)
        return announcement, survivors, confirmations

    def answers(self, server: ServerSession, names: Iterable[str]) -> list[Answer]:
        confirmations = server.confirmations()
        return [self.sessions[name].unmask(confirmations) for name in names]

    def lists(self, server: ServerSession) -> tuple[list[int], list[int]]:
        vector, counts = server.sum()
        return vector.tolist(), counts.tolist()


@pytest.fixture
def make_league() -> Callable[..., League]:
    return League


@pytest.fixture
def league() -> League:
    return League()


@pytest.fixture
def model() -> bytes:
    return MODEL


@pytest.fixture
def replaced_key() -> Callable[[League, str], StudyKey]:
    """A new study key for a site, as after a new binding."""

    def replace(league: League, name: str) -> StudyKey:
        league.study[name] = League.study_key(f"{name} anew")
        statement = league.start(name).study_key_statement()
        league.keys = [statement if key.site == name else key for key in league.keys]
        return statement

    return replace
