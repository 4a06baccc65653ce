import io
import json
import math
import random
import struct
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hansa_common.errors import MessageError
from hansa_common.messages import Envelope, Message, RawArray, TrainTask, decode, encode
from hansa_common.metrics import ClassificationKind
from hansa_common.wire.codec import Kind, Parcel, parse, read_parcel
from hansa_common.wire.protocol import CHUNK

HEAD = struct.Struct("!4sBII")
_ITEM = {"<f4": 4, "<i8": 8, "|u1": 1}


def spell(
    header: bytes = b"{}", table: Any = (), arrays: bytes = b"", *, magic: bytes = b"HNS1", kind: int = 1
) -> bytes:
    """A second implementation of the format, which writes anything."""
    rows = table if isinstance(table, bytes) else json.dumps(table).encode()
    return HEAD.pack(magic, kind, len(header), len(rows)) + header + rows + arrays


def joined(parcel: Parcel) -> bytes:
    return b"".join(parcel.pieces())


@st.composite
def arrays(draw: st.DrawFn) -> RawArray:
    dtype = draw(st.sampled_from(sorted(_ITEM)))
    shape = tuple(draw(st.lists(st.integers(0, 4), max_size=4)))
    size = math.prod(shape) * _ITEM[dtype]
    return RawArray(dtype=dtype, shape=shape, data=draw(st.binary(min_size=size, max_size=size)))


_PARCELS = st.builds(
    lambda kind, header, named: Parcel(kind=kind, envelope=Envelope(header=header, arrays=named)),
    st.sampled_from(Kind),
    st.binary(max_size=100),
    st.dictionaries(st.text(st.characters(codec="utf-8"), min_size=1, max_size=20), arrays(), max_size=4),
)


@given(parcel=_PARCELS)
def test_a_parcel_is_read_back_bit_for_bit(parcel: Parcel) -> None:
    back = parse(joined(parcel))
    assert back == parcel
    assert list(back.envelope.arrays) == list(parcel.envelope.arrays)


@given(parcel=_PARCELS)
def test_the_bytes_are_those_of_the_format(parcel: Parcel) -> None:
    named = parcel.envelope.arrays
    table = [[name, array.dtype, list(array.shape)] for name, array in named.items()]
    data = b"".join(array.data for array in named.values())
    assert joined(parcel) == spell(parcel.envelope.header, table, data, kind=int(parcel.kind))


def test_a_message_comes_through_with_its_vector() -> None:
    vector = np.arange(300_000, dtype=np.float32)
    message = Message(header=TrainTask(plan_digest="ab" * 32, round=1, attempt=1), vector=vector)
    pieces = list(Parcel(kind=Kind.HANSA, envelope=encode(message)).pieces())
    assert max(map(len, pieces)) <= CHUNK
    back = decode(parse(b"".join(pieces)).envelope)
    assert back.header == message.header
    assert back.vector is not None
    assert back.vector.tobytes() == vector.tobytes()


def test_a_large_header_goes_in_chunks_too() -> None:
    parcel = Parcel(kind=Kind.HANSA, envelope=Envelope(header=b"x" * (3 * CHUNK + 5)))
    assert max(map(len, parcel.pieces())) == CHUNK
    assert parse(joined(parcel)) == parcel


@given(parcel=_PARCELS, data=st.data())
def test_a_parcel_that_is_cut_or_goes_on_is_refused(parcel: Parcel, data: st.DataObject) -> None:
    content = joined(parcel)
    with pytest.raises(MessageError):
        parse(content[: data.draw(st.integers(0, len(content) - 1))])
    with pytest.raises(MessageError):
        parse(content + data.draw(st.binary(min_size=1, max_size=9)))


def test_a_file_shorter_than_announced_is_refused() -> None:
    content = spell(table=[["vector", "<f4", [4]]], arrays=bytes(16))
    assert read_parcel(io.BytesIO(content), len(content)).envelope.arrays["vector"].data == bytes(16)
    for cut in range(len(content)):
        with pytest.raises(MessageError):
            read_parcel(io.BytesIO(content[:cut]), len(content))


@pytest.mark.parametrize(
    "table",
    [
        {},
        None,
        5,
        "table",
        [[]],
        [["v", "<f4"]],
        [["v", "<f4", [1], 0]],
        [{"v": 1}],
        [[1, "<f4", []]],
        [["", "<f4", []]],
        [["v" * 201, "<f4", []]],
        [["\ud800", "<f4", []]],
        [["v", "<f8", []]],
        [["v", "|O", []]],
        [["v", ">f4", []]],
        [["v", ["<f4"], []]],
        [["v", "<f4", 1]],
        [["v", "<f4", [1.0]]],
        [["v", "<f4", [True]]],
        [["v", "<f4", ["1"]]],
        [["v", "<f4", [-1]]],
        [["v", "<f4", [-1, -1]]],
        [["v", "<f4", [(1 << 40) + 1, 0]]],
        [["v", "<f4", [1] * 9]],
        [["v", "<f4", [float("nan")]]],
        [["v", "<f4", []], ["v", "<f4", []]],
        b"",
        b"[",
        b"\xff",
        b"\xef\xbb\xbf[]",
        "[]".encode("utf-16"),
        b'[["\xed\xa0\x80","<f4",[]]]',
    ],
    ids=str,
)
def test_a_table_that_is_not_of_the_format_is_refused(table: Any) -> None:
    for size in (0, 4, 8):
        with pytest.raises(MessageError):
            parse(spell(table=table, arrays=bytes(size)))


@pytest.mark.parametrize("kind", [0, 3, 255])
def test_another_kind_or_magic_is_refused(kind: int) -> None:
    with pytest.raises(MessageError, match="no parcel"):
        parse(spell(kind=kind))
    with pytest.raises(MessageError, match="no parcel"):
        parse(spell(magic=b"HNS2"))


@pytest.mark.parametrize(
    "content",
    [
        HEAD.pack(b"HNS1", 1, 2**32 - 1, 2**32 - 1),
        HEAD.pack(b"HNS1", 1, 9 << 20, 2) + bytes(9 << 20) + b"[]",
        spell(table=b"[" * (4 << 20)),
        spell(table=b"[" * 100_000),
        spell(table=b"[" + b"[]," * (8 << 20) + b"[]]"),
        spell(table=b"[" + b"{}," * (8 << 20) + b"[]]"),
        spell(table=b"[" + b"0," * (12 << 20) + b"0]"),
        spell(table=b"[" + b"1.5," * (6 << 20) + b"0]"),
        spell(table=b"[" + b"9" * (4 << 20) + b"]"),
        spell(table=[["v", "<f4", [1 << 40] * 8]]),
        spell(table=[[str(index), "<f4", [1 << 40]] for index in range(1_000)]),
    ],
    ids=["sizes", "header", "depth", "less depth", "lists", "objects", "numbers", "floats", "digits", "shape", "sum"],
)
def test_a_bomb_is_refused_before_it_takes_memory(content: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(MessageError):
            parse(content)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 3 * len(content) + (16 << 20)


@pytest.mark.slow
def test_as_many_arrays_as_are_allowed_are_read_and_one_more_is_not() -> None:
    def rows(number: int) -> bytes:
        return ("[" + ",".join(f'["{index}","|u1",[0]]' for index in range(number)) + "]").encode()

    assert len(parse(spell(table=rows(600_000))).envelope.arrays) == 600_000
    with pytest.raises(MessageError, match="600,000"):
        parse(spell(table=rows(600_001)))


def _mutate(rng: random.Random, content: bytes) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.randrange(1, 5)):
        at = rng.randrange(len(changed) + 1)
        kind = rng.randrange(6)
        if kind == 0 and at < len(changed):
            changed[at] ^= 1 << rng.randrange(8)
        elif kind == 1 and at < len(changed):
            changed[at] = rng.randrange(256)
        elif kind == 2:
            changed[at:at] = rng.choice((b"[", b"]", b",", b'"', b"-1", b"1e9", b"null", b"{}", rng.randbytes(3)))
        elif kind == 3:
            del changed[at : at + rng.randrange(1, 9)]
        elif kind == 4:
            changed[5:9] = struct.pack("!I", rng.randrange(rng.choice((64, 2**32))))
        else:
            changed[9:13] = struct.pack("!I", rng.randrange(rng.choice((128, 2**32))))
    return bytes(changed)


def _seeds() -> list[bytes]:
    message = Message(header=TrainTask(plan_digest="ab" * 32, round=1, attempt=1), vector=np.ones(3, np.float32))
    return [
        joined(Parcel(kind=Kind.HANSA, envelope=encode(message))),
        spell(),
        spell(b"", [["a", "|u1", [2, 3]], ["b", "<i8", []]], bytes(14), kind=2),
        spell(b'{"kind":"update"}', [["vector", "<f4", [2]], ["counts/test/examples", "<i8", [1]]], bytes(16)),
    ]


def _fuzz(number: int, read: Callable[[bytes], Any]) -> int:
    """Return how many of the messages were accepted; whatever else than a typed error comes out is the failure."""
    rng, seeds, accepted = random.Random(12), _seeds(), 0
    for _ in range(number):
        content = _mutate(rng, rng.choice(seeds))
        try:
            read(content)
        except MessageError:
            continue
        accepted += 1
    return accepted


def _read_whole(content: bytes) -> None:
    decode(parse(content).envelope, kind=ClassificationKind(classes=2))


def test_20_000_mutated_parcels_give_one_typed_error() -> None:
    assert 0 < _fuzz(20_000, parse) < 5_000  # a flipped bit in an array is still a parcel


def test_5_000_mutated_messages_give_one_typed_error() -> None:
    _fuzz(5_000, _read_whole)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_5_million_mutated_parcels_give_one_typed_error_and_memory_stays() -> None:
    _fuzz(20_000, parse)
    tracemalloc.start()
    _fuzz(20_000, parse)
    grown, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert grown < 1 << 20
    _fuzz(5_000_000, parse)
