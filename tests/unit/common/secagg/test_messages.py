"""The codec: one way to write each value, one error for all that is no message."""

import os
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hansa_common.errors import MessageError
from hansa_common.secagg import (
    Announcement,
    Answer,
    Confirmation,
    MaskedInput,
    Setup,
    StudyKey,
    Survivors,
    Terms,
    Turn,
)
from hansa_common.secagg.messages import Message, Part

KINDS: list[type[Message]] = [StudyKey, Setup, Announcement, MaskedInput, Survivors, Confirmation, Answer]
HEAD = 3 + 1 + 1 + 32 + 4 + 2


def terms_of(n: int) -> Terms:
    sites = tuple(f"{number:03}" for number in range(n))
    return Terms(plan_digest="ab" * 32, sites=sites, cohort="changing", ring_bits=32)


TERMS = terms_of(11)
TURN = Turn(plan_digest=TERMS.plan_digest, round=7, attempt=3)


def random_value(part: Part, terms: Terms) -> Any:
    match part.what:
        case "site":
            return terms.sites[os.urandom(1)[0] % terms.n]
        case "sites":
            return tuple(site for site in terms.sites if os.urandom(1)[0] % 2)
        case "number":
            return os.urandom(1)[0]
        case _:
            return os.urandom(part.size(terms))


def make(kind: type[Message], terms: Terms = TERMS, **changes: Any) -> Any:
    if kind is Announcement:
        setups = tuple(make(Setup, terms, site=site) for site in terms.sites[1:4])
        return Announcement(terms=terms, turn=TURN, setups=setups)
    values = {name: random_value(part, terms) for name, part in kind.layout.items()}
    return kind(terms=terms, turn=TURN, **(values | changes))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [3, 8, 9, 100])
def test_what_is_written_is_read_and_has_the_size_that_the_terms_say(kind: type[Message], n: int) -> None:
    terms = terms_of(n)
    message = make(kind, terms)
    data = message.to_bytes()
    assert kind.from_bytes(data, terms) == message
    assert len(data) <= kind.size(terms)
    assert len(data) == kind.size(terms) or kind is Announcement


def test_sizes_are_those_of_the_document() -> None:
    """docs/secure-aggregation.md has this table for n = 10 and n = 100."""
    sizes = {kind.name: tuple(kind.size(terms_of(n)) for n in (10, 100)) for kind in KINDS}
    assert sizes == {
        "study key": (140, 140),
        "setup": (2_017, 18_037),
        "announcement": (20_215, 1_803_756),
        "masked input": (108, 108),
        "set of survivors": (77, 88),
        "confirmation": (238, 249),
        "answer": (472, 3_453),
    }


def test_the_layout_is_this_one_byte_by_byte() -> None:
    survivors = Survivors(terms=TERMS, turn=TURN, announcement=b"\5" * 32, sites=("000", "010"))
    head = b"HSA\1\5" + b"\xab" * 32 + b"\0\0\0\7\0\3"
    assert survivors.to_bytes() == head + b"\5" * 32 + b"\1\4"
    masked = MaskedInput(terms=TERMS, turn=TURN, site="010", announcement=b"\6" * 32, model=b"\7" * 32)
    assert masked.to_bytes() == b"HSA\1\4" + head[5:] + b"\12" + b"\6" * 32 + b"\7" * 32


@pytest.mark.parametrize("kind", KINDS)
def test_every_length_but_the_right_one_is_refused(kind: type[Message]) -> None:
    data = make(kind).to_bytes()
    for wrong in (b"", data[:4], data[:HEAD], data[:-1], data + b"\0", data * 2):
        with pytest.raises(MessageError):
            kind.from_bytes(wrong, TERMS)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("place", "reason"), [(0, "something else"), (3, "version"), (4, "something else"), (5, "another plan")]
)
def test_another_head_is_refused(kind: type[Message], place: int, reason: str) -> None:
    data = bytearray(make(kind).to_bytes())
    data[place] ^= 64
    with pytest.raises(MessageError, match=reason):
        kind.from_bytes(bytes(data), TERMS)


def test_attempt_zero_unknown_sites_and_sets_are_refused() -> None:
    masked, survivors = bytearray(make(MaskedInput).to_bytes()), bytearray(make(Survivors).to_bytes())
    for data, place, value in ((masked, HEAD - 1, 0), (masked, HEAD, 11), (survivors, len(survivors) - 1, 8)):
        wrong = bytearray(data)
        wrong[place] = value
        if place == HEAD - 1:
            wrong[HEAD - 2] = 0
        with pytest.raises(MessageError):
            (MaskedInput if data is masked else Survivors).from_bytes(bytes(wrong), TERMS)


def test_an_announcement_holds_the_setups_that_it_names_in_their_order() -> None:
    first, second, third = (make(Setup, site=site) for site in ("001", "002", "003"))
    whole = make(Announcement).to_bytes()
    start, bitmap = whole[:HEAD], TERMS.pack(["001", "002", "003"])
    later = Setup(**{name: getattr(first, name) for name in ("terms", *Setup.layout)}, turn=Turn(
        plan_digest=TERMS.plan_digest, round=8, attempt=3))  # fmt: skip
    for setups in ([second, first, third], [first, first, third], [first, second], [later, second, third]):
        with pytest.raises(MessageError):
            Announcement.from_bytes(start + bitmap + b"".join(one.to_bytes() for one in setups), TERMS)
    good = start + bitmap + b"".join(one.to_bytes() for one in (first, second, third))
    assert Announcement.from_bytes(good, TERMS).sites == ("001", "002", "003")
    with pytest.raises(MessageError):
        Announcement.from_bytes(start + TERMS.pack(["001", "002"]) + good[HEAD + 2 :], TERMS)


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(
    kind=st.sampled_from(KINDS),
    place=st.integers(0, 2**20),
    flip=st.integers(1, 255),
    cut=st.integers(0, 40),
    tail=st.binary(max_size=3),
)
def test_damaged_bytes_are_refused_or_another_message(
    kind: type[Message], place: int, flip: int, cut: int, tail: bytes
) -> None:
    message = make(kind)
    data = bytearray(message.to_bytes())
    data[place % len(data)] ^= flip
    content = bytes(data[: len(data) - cut]) + tail
    try:
        read = kind.from_bytes(content, TERMS)
    except MessageError:
        return
    assert read.to_bytes() == content
    assert read != message or content == message.to_bytes()


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(kind=st.sampled_from(KINDS), data=st.binary(max_size=200))
def test_junk_is_refused(kind: type[Message], data: bytes) -> None:
    with pytest.raises(MessageError):
        kind.from_bytes(data, TERMS)


def test_a_field_of_another_length_cannot_be_written() -> None:
    with pytest.raises(ValueError, match="32 bytes cannot hold 31"):
        make(MaskedInput, model=bytes(31)).to_bytes()


def test_a_digest_covers_every_byte_of_every_setup() -> None:
    announcement = make(Announcement)
    data = announcement.to_bytes()
    for place in (HEAD, HEAD + 40, len(data) // 2, len(data) - 1):
        damaged = bytearray(data)
        damaged[place] ^= 1
        try:
            other = Announcement.from_bytes(bytes(damaged), TERMS)
        except MessageError:
            continue
        assert other.digest() != announcement.digest()
