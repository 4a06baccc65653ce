from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hansa_common import messages
from hansa_common.errors import MessageError
from hansa_common.messages import (
    Baseline,
    Envelope,
    Evaluated,
    MaskedUpdate,
    Message,
    OpenTask,
    RawArray,
    Refusal,
    TrainTask,
    Update,
    decode,
    encode,
)
from hansa_common.metrics import ClassificationCounts, ClassificationKind, of_classes

DIGEST = "ab" * 32


def counts(classes: int = 3) -> ClassificationCounts:
    probabilities = np.full((4, classes), 1.0 / classes, dtype=np.float32)
    return ClassificationCounts.of(probabilities, np.array([0, 1, 2, 0]), np.ones(4), histograms=False)


def update(**changes: Any) -> Update:
    values: dict[str, Any] = {
        "plan_digest": DIGEST,
        "round": 3,
        "attempt": 1,
        "site": "Lübeck",
        "num_examples": 4,
        "train_loss": 0.5,
        "steps": 2,
        "seconds": 1.0,
        "train_seconds": 0.5,
    }
    return Update(**(values | changes))


def update_message() -> Message:
    return Message(header=update(), vector=np.arange(5, dtype=np.float32), counts={"validation": counts()})


@given(hnp.arrays(np.float32, st.integers(0, 300), elements=st.floats(width=32)))
def test_a_vector_comes_back_bit_for_bit(vector: Any) -> None:
    message = Message(header=TrainTask(plan_digest=DIGEST, round=1, attempt=1), vector=vector)
    back = decode(encode(message))
    assert back.header == message.header
    assert back.vector is not None
    assert back.vector.tobytes() == vector.tobytes()


def test_counts_come_back_equal() -> None:
    back = decode(encode(update_message()), kind=ClassificationKind(classes=3))
    assert of_classes(back.counts["validation"]).confusion.tolist() == counts().confusion.tolist()
    assert of_classes(back.counts["validation"]).loss_sum == counts().loss_sum


@given(st.text(min_size=0, max_size=500), st.text(max_size=64))
def test_headers_with_any_text_come_back_equal(reason: str, code: str) -> None:
    message = Message(header=Refusal(code=code, site="a", reason=reason))
    try:
        envelope = encode(message)
    except ValueError:  # lone surrogates are no text
        return
    assert decode(envelope).header == message.header


def test_a_view_of_bytes_is_sent_without_a_copy() -> None:
    data = np.arange(8, dtype="<f4").tobytes()
    vector = np.frombuffer(data, dtype="<f4")
    envelope = encode(Message(header=TrainTask(plan_digest=DIGEST, round=1, attempt=1), vector=vector))
    assert envelope.arrays["vector"].data is data


def test_a_part_of_a_longer_byte_string_is_copied_out() -> None:
    data = np.arange(8, dtype="<f4").tobytes()
    vector = np.frombuffer(data, dtype="<f4")[2:5]
    envelope = encode(Message(header=TrainTask(plan_digest=DIGEST, round=1, attempt=1), vector=vector))
    assert envelope.arrays["vector"].data == data[8:20]


def test_a_message_is_sized_by_what_travels() -> None:
    envelope = encode(update_message())
    assert envelope.num_bytes == len(envelope.header) + 5 * 4 + sum(
        len(array.data) for name, array in envelope.arrays.items() if name != "vector"
    )


def _with_array(envelope: Envelope, name: str, array: RawArray) -> Envelope:
    return replace(envelope, arrays={**envelope.arrays, name: array})


HOSTILE: dict[str, Callable[[Envelope], Envelope]] = {
    "no JSON": lambda e: replace(e, header=b"\x80\x04pickle"),
    "empty": lambda e: replace(e, header=b""),
    "unknown kind": lambda e: replace(e, header=b'{"kind":"run-code"}'),
    "unknown key": lambda e: replace(e, header=e.header[:-1] + b',"extra":1}'),
    "another protocol": lambda e: replace(e, header=e.header.replace(b'"protocol":1', b'"protocol":2')),
    "NaN in the header": lambda e: replace(e, header=e.header.replace(b"0.5", b"NaN", 1)),
    "infinity in the header": lambda e: replace(e, header=e.header.replace(b"0.5", b"1e999", 1)),
    "a number as text": lambda e: replace(e, header=e.header.replace(b'"round":3', b'"round":"3"')),
    "a negative count": lambda e: replace(e, header=e.header.replace(b'"num_examples":4', b'"num_examples":-4')),
    "a path as a name": lambda e: replace(e, header=e.header.replace("Lübeck".encode(), b"../../etc")),
    "deep nesting": lambda e: replace(e, header=b"[" * 100_000),
    "a digest of another length": lambda e: replace(e, header=e.header.replace(DIGEST.encode(), b"ab")),
    "no vector": lambda e: replace(e, arrays={k: v for k, v in e.arrays.items() if k != "vector"}),
    "another dtype": lambda e: _with_array(e, "vector", RawArray(dtype="<f8", shape=(5,), data=b"\0" * 40)),
    "an object dtype": lambda e: _with_array(e, "vector", RawArray(dtype="|O", shape=(5,), data=b"\0" * 40)),
    "integers as vector": lambda e: _with_array(e, "vector", RawArray(dtype="<i8", shape=(5,), data=b"\0" * 40)),
    "a matrix as vector": lambda e: _with_array(e, "vector", RawArray(dtype="<f4", shape=(5, 1), data=b"\0" * 20)),
    "fewer bytes than the shape": lambda e: _with_array(
        e, "vector", RawArray(dtype="<f4", shape=(5,), data=b"\0" * 19)
    ),
    "more bytes than the shape": lambda e: _with_array(e, "vector", RawArray(dtype="<f4", shape=(5,), data=b"\0" * 24)),
    "a huge shape": lambda e: _with_array(e, "vector", RawArray(dtype="<f4", shape=(1 << 60,), data=b"")),
    "a negative shape": lambda e: _with_array(e, "vector", RawArray(dtype="<f4", shape=(-5, -1), data=b"\0" * 20)),
    "an extra array": lambda e: _with_array(e, "secret", RawArray(dtype="<f4", shape=(1,), data=b"\0" * 4)),
    "a long array name": lambda e: _with_array(e, "x" * 999, RawArray(dtype="<f4", shape=(1,), data=b"\0" * 4)),
    "counts of no subject": lambda e: _with_array(e, "counts//x", RawArray(dtype="<i8", shape=(1,), data=b"\0" * 8)),
}


@pytest.mark.parametrize("tamper", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_bytes_are_refused_with_the_one_error(tamper: Callable[[Envelope], Envelope]) -> None:
    envelope = tamper(encode(update_message()))
    with pytest.raises(MessageError):
        decode(envelope, kind=ClassificationKind(classes=3))


def test_the_untampered_message_is_accepted() -> None:
    assert decode(encode(update_message()), kind=ClassificationKind(classes=3)).header == update()


def test_counts_of_other_classes_are_refused() -> None:
    with pytest.raises(MessageError):
        decode(encode(update_message()), kind=ClassificationKind(classes=4))


def test_counts_are_refused_where_nobody_expects_them() -> None:
    with pytest.raises(MessageError, match="none are expected"):
        decode(encode(update_message()))


def test_a_header_beyond_the_limit_is_refused_before_it_is_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "MAX_HEADER", 10)
    with pytest.raises(MessageError, match="too large"):
        decode(Envelope(header=b"x" * 11))


@given(st.binary(max_size=400))
def test_garbage_is_refused_with_the_one_error(header: bytes) -> None:
    with pytest.raises(MessageError):
        decode(Envelope(header=header))


def test_an_error_message_holds_no_value_from_the_message() -> None:
    envelope = encode(update_message())
    tampered = replace(envelope, header=envelope.header.replace(b'"round":3', b'"round":"canary"'))
    with pytest.raises(MessageError) as caught:
        decode(tampered, kind=ClassificationKind(classes=3))
    assert "canary" not in str(caught.value)


def test_carrying_what_the_header_does_not_announce_is_a_bug_of_the_sender() -> None:
    with pytest.raises(RuntimeError):
        encode(Message(header=OpenTask(plan="{}"), vector=np.zeros(1, dtype=np.float32)))
    with pytest.raises(RuntimeError):
        encode(Message(header=Baseline(plan_digest=DIGEST, subject="local", site="a", seconds=1.0)))


def test_protection_may_keep_the_counts_of_an_update_and_of_an_evaluation_at_the_site() -> None:
    envelope = encode(replace(update_message(), counts={}))
    assert decode(envelope, kind=ClassificationKind(classes=3)).counts == {}
    evaluated = Message(header=Evaluated(plan_digest=DIGEST, site="a", seconds=1.0))
    assert decode(encode(evaluated), kind=ClassificationKind(classes=3)).counts == {}


def test_no_repr_shows_parameters() -> None:
    assert "vector" not in repr(update_message())
    assert "data" not in repr(encode(update_message()).arrays["vector"])


def test_an_unknown_key_of_the_peers_choice_neither_fills_nor_breaks_a_log() -> None:
    header = b'{"kind":"delivered","plan_digest":"%s","site":"A","\\n\\u001b[31mforged line%s":1}' % (
        DIGEST.encode(),
        b"x" * 100_000,
    )
    with pytest.raises(MessageError) as refusal:
        decode(Envelope(header=header))
    assert len(str(refusal.value)) < 500
    assert str(refusal.value).isprintable()


def masked_message(*, dtype: str = "<u4", statement: bytes = b"setup") -> Message:
    header = MaskedUpdate(plan_digest=DIGEST, round=3, attempt=17, site="Visby", seconds=1.0, train_seconds=0.5)
    masked, sums = np.arange(5).astype(dtype), np.array([1, 2**64 - 1], np.uint64)
    return Message(header=header, masked=masked, sums=sums, statement=statement)


@pytest.mark.parametrize("dtype", ["<u2", "<u4"])
def test_what_is_masked_comes_back_bit_for_bit(dtype: str) -> None:
    back = decode(encode(masked_message(dtype=dtype)))
    assert back.masked is not None
    assert back.sums is not None
    assert (back.masked.dtype.str, back.masked.tolist()) == (dtype, [0, 1, 2, 3, 4])
    assert back.sums.tolist() == [1, 2**64 - 1]
    assert back.statement == b"setup"
    assert back.counts == {}


def test_the_counts_of_a_site_may_lie_beside_the_masked_ones() -> None:
    message = replace(masked_message(), counts={"validation": counts()})
    assert decode(encode(message), kind=ClassificationKind(classes=3)).counts == {"validation": counts()}


def test_a_statement_may_come_with_a_train_task_and_with_nothing_that_has_none() -> None:
    task = Message(header=TrainTask(plan_digest=DIGEST, round=1, attempt=1), vector=np.zeros(2, np.float32))
    assert decode(encode(replace(task, statement=b"R"))).statement == b"R"
    assert decode(encode(task)).statement == b""
    with pytest.raises(RuntimeError):
        encode(Message(header=OpenTask(plan="{}"), statement=b"R"))


_MASKED_HOSTILE: dict[str, Callable[[Envelope], Envelope]] = {
    "no masked vector": lambda e: replace(e, arrays={k: v for k, v in e.arrays.items() if k != "masked"}),
    "no sums": lambda e: replace(e, arrays={k: v for k, v in e.arrays.items() if k != "sums"}),
    "signed masks": lambda e: _with_array(e, "masked", RawArray(dtype="<i8", shape=(5,), data=b"\0" * 40)),
    "wide masks": lambda e: _with_array(e, "masked", RawArray(dtype="<u8", shape=(5,), data=b"\0" * 40)),
    "a matrix of masks": lambda e: _with_array(e, "masked", RawArray(dtype="<u4", shape=(5, 1), data=b"\0" * 20)),
    "narrow sums": lambda e: _with_array(e, "sums", RawArray(dtype="<u4", shape=(2,), data=b"\0" * 8)),
    "a plain vector too": lambda e: _with_array(e, "vector", RawArray(dtype="<f4", shape=(5,), data=b"\0" * 20)),
    "an array that nobody knows": lambda e: _with_array(e, "more", RawArray(dtype="<u4", shape=(1,), data=b"\0" * 4)),
    "a statement of numbers": lambda e: _with_array(e, "statement", RawArray(dtype="<u4", shape=(1,), data=b"\0" * 4)),
}


@pytest.mark.parametrize("tamper", _MASKED_HOSTILE.values(), ids=_MASKED_HOSTILE.keys())
def test_hostile_masked_bytes_are_refused_with_the_one_error(tamper: Callable[[Envelope], Envelope]) -> None:
    with pytest.raises(MessageError):
        decode(tamper(encode(masked_message())), kind=ClassificationKind(classes=3))


def test_a_statement_beyond_the_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    envelope = encode(masked_message())
    monkeypatch.setattr(messages, "MAX_STATEMENT", 4)
    with pytest.raises(MessageError, match="statement of more than 4 bytes"):
        decode(envelope)


def test_an_update_without_masks_has_no_masked_arrays() -> None:
    envelope = _with_array(encode(update_message()), "masked", RawArray(dtype="<u4", shape=(1,), data=b"\0" * 4))
    with pytest.raises(MessageError, match="has no masked update"):
        decode(envelope, kind=ClassificationKind(classes=3))
