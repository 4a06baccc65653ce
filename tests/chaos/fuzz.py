"""Hostile bytes for calls: noise, and messages that are almost those of the protocol."""

import json
import random
from collections.abc import Iterator
from typing import Any

from hansa_common.settings import Strict
from hansa_common.wire.protocol import dump

_STRANGE: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    2**63,
    10**400,
    1e308,
    "",
    "\x00",
    "../../etc/passwd",
    "\u202e",
    "f" * 64,
    "9" * 50_000,
    [],
    {},
    [[]] * 20_000,
    {"kind": "welcome"},
    list(range(20_000)),
)


def messages(valid: Strict, number: int, seed: int) -> Iterator[bytes]:
    """Yield hostile versions of one valid message, the same for the same seed."""
    source = random.Random(seed)
    original = dump(valid)
    kinds = (_noise, _flipped, _cut, _strange_value, _strange_value, _extra_key, _nested, _doubled)
    for _ in range(number):
        yield source.choice(kinds)(original, source)


def _noise(_original: bytes, source: random.Random) -> bytes:
    return source.randbytes(source.choice((0, 1, 7, 100, 5_000)))


def _flipped(original: bytes, source: random.Random) -> bytes:
    changed = bytearray(original)
    for _ in range(source.randint(1, 8)):
        changed[source.randrange(len(changed))] = source.randrange(256)
    return bytes(changed)


def _cut(original: bytes, source: random.Random) -> bytes:
    return original[: source.randrange(len(original))]


def _strange_value(original: bytes, source: random.Random) -> bytes:
    message = json.loads(original)
    place: Any = message
    while place:
        key = source.choice(list(place) if isinstance(place, dict) else range(len(place)))
        if not place[key] or not isinstance(place[key], dict | list) or source.random() < 0.3:
            place[key] = source.choice(_STRANGE)
            return json.dumps(message).encode()
        place = place[key]
    return _noise(original, source)


def _extra_key(original: bytes, source: random.Random) -> bytes:
    return json.dumps(json.loads(original) | {source.choice(("__class__", "x" * 10_000, "é")): 1}).encode()


def _nested(_original: bytes, source: random.Random) -> bytes:
    return source.choice((b"[", b'{"a":')) * source.choice((10, 1_000, 30_000))


def _doubled(original: bytes, _source: random.Random) -> bytes:
    return original + original
