import socket
from typing import Any

import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from hansa_server.engines.frames import Kind, flatten, join, part, receive, restore, send


def through_a_socket(body: bytes, buffers: list[bytes]) -> Any:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        send(ours, Kind.REPLY, body, buffers)
        return receive(theirs)


@given(st.binary(max_size=200), st.lists(st.binary(max_size=300), max_size=5))
def test_a_frame_comes_back(body: bytes, buffers: list[bytes]) -> None:
    frame = through_a_socket(body, buffers)
    assert (frame.kind, frame.body, frame.buffers) == (Kind.REPLY, body, buffers)


@given(st.lists(st.binary(max_size=50), max_size=6))
def test_parts_come_apart_as_they_were_joined(parts: list[bytes]) -> None:
    assert part(join(parts)) == parts


@given(
    st.dictionaries(
        st.text("abc", min_size=1, max_size=3),
        st.dictionaries(st.text("xyz", min_size=1, max_size=3), st.binary(max_size=40), max_size=4),
        max_size=4,
    )
)
def test_records_come_back_in_order(arrays: dict[str, dict[str, bytes]]) -> None:
    records = RecordDict({"config": ConfigRecord({"a": 1, "b": b"x"}), "metrics": MetricRecord({"m": 0.5})})
    for key, values in arrays.items():
        records[f"arrays-{key}"] = ArrayRecord(
            {name: Array("uint8", (len(data),), "raw", data) for name, data in values.items()}
        )
    body, buffers = flatten(records)
    back = restore(body, iter(buffers))
    assert back == records
    for key, values in arrays.items():
        assert list(back.array_records[f"arrays-{key}"]) == list(values)


def test_flattening_copies_no_array_and_changes_nothing() -> None:
    data = bytes(1000)
    records = RecordDict({"arrays": ArrayRecord({"w": Array("uint8", (1000,), "raw", data)})})
    body, buffers = flatten(records)
    assert buffers[0] is data
    assert records.array_records["arrays"]["w"].data is data
    assert len(body) < 100


def test_the_reader_may_wait_before_arrays_are_read() -> None:
    ours, theirs = socket.socketpair()
    seen: list[int] = []
    with ours, theirs:
        send(ours, Kind.REPLY, b"body", [b"123", b"4567"])
        receive(theirs, before_arrays=seen.append)
    assert seen == [7]


@pytest.mark.parametrize("cut", [0, 5, 13, 16, 30])
def test_an_end_that_goes_away_is_noticed(cut: int) -> None:
    source, sink = socket.socketpair()
    with source, sink:
        send(source, Kind.REPLY, b"body", [b"1234567890"])
        whole = sink.recv(1000)
    ours, theirs = socket.socketpair()
    with theirs:
        ours.sendall(whole[:cut])
        ours.close()
        with pytest.raises(EOFError):
            receive(theirs)


def test_what_is_no_frame_is_refused_before_memory_is_taken() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(b"\xff" * 13)
        with pytest.raises(OSError, match="no frame"):
            receive(theirs)
