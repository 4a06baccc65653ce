"""Organisations, sites and rosters with fixed keys."""

from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, derive_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from hansa_common.identity import NodeKeys
from hansa_common.roster import (
    Binding,
    CoordinatorPins,
    Organisation,
    Roster,
    SignedBinding,
    SignedRoster,
    sign_binding,
    sign_roster,
)
from hansa_common.signing import public_hex


class Cast:
    """Everybody who takes part, by a number."""

    @staticmethod
    def key(number: int) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32)

    @classmethod
    def organisation(cls, number: int) -> Organisation:
        return Organisation(name=f"Organisation {number}", key=public_hex(cls.key(number)))

    @classmethod
    def node(cls, number: int) -> NodeKeys:
        return NodeKeys(
            signing=cls.key(100 + number),
            agreement=X25519PrivateKey.from_private_bytes(bytes([number]) * 32),
            tls=derive_private_key(number, SECP256R1()),
        )

    @classmethod
    def binding(cls, number: int, **changes: Any) -> Binding:
        values: dict[str, Any] = {
            "federation": "thorax",
            "site": f"Site {number}",
            "organisation": cls.organisation(number),
            "keys": cls.node(number).public(),
            "issued_at": 1_700_000_000,
        }
        return Binding(**(values | changes))

    @classmethod
    def member(cls, number: int) -> SignedBinding:
        return sign_binding(cls.binding(number), cls.key(number))

    @classmethod
    def first(cls, founder: int = 1, **changes: Any) -> SignedRoster:
        values: dict[str, Any] = {
            "federation": "thorax",
            "version": 1,
            "founder": cls.organisation(founder),
            "coordinator": CoordinatorPins(certificate_authorities=("ab" * 32,)),
            "issued_at": 1_700_000_000,
        }
        return sign_roster(Roster(**(values | changes)), cls.key(founder))

    @classmethod
    def next(cls, of: SignedRoster, *numbers: int, founder: int = 1) -> SignedRoster:
        members = [cls.member(number) for number in numbers]
        return sign_roster(of.roster.following(members=members, issued_at=1_700_000_001), cls.key(founder))


@pytest.fixture(scope="session")
def cast() -> type[Cast]:
    return Cast


@pytest.fixture(scope="session")
def replace_in() -> Callable[[Any, tuple[Any, ...], Any], Any]:
    """Return a copy of nested JSON in which one place has another value."""

    def replace(value: Any, path: tuple[Any, ...], new: Any) -> Any:
        if not path:
            return new
        copy = dict(value) if isinstance(value, dict) else list(value)
        copy[path[0]] = replace(value[path[0]], path[1:], new)
        return copy

    return replace
