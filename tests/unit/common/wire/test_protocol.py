from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from hansa_common.errors import MessageError, PeerRefused
from hansa_common.settings import Strict
from hansa_common.wire import protocol
from hansa_common.wire.protocol import (
    MAX_CALL,
    AttachRequest,
    BeginRequest,
    Decision,
    Denial,
    Empty,
    Heartbeat,
    StoredReply,
    TaskClosed,
    TaskId,
    TaskNotice,
    Token,
    UploadHeader,
    Welcome,
    agree,
    dump,
    load,
    load_notice,
)

TOKEN = "5e" * 32
TASK = TaskId(study="digits-1", step="train-3", attempt=2, site="St. Georg: Haus 1")
_TYPES = [
    kind
    for kind in vars(protocol).values()
    if isinstance(kind, type) and issubclass(kind, Strict) and kind.__module__ == protocol.__name__
]


@given(
    study=st.from_regex("[a-z0-9][a-z0-9-]{0,99}", fullmatch=True),
    step=st.from_regex("[a-z0-9][a-z0-9-]{0,63}", fullmatch=True),
    attempt=st.integers(1, 1_000_000),
    site=st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/\\"), min_size=1, max_size=64),
)
def test_a_task_id_is_read_back_from_its_text(study: str, step: str, attempt: int, site: str) -> None:
    task = TaskId(study=study, step=step, attempt=attempt, site=site)
    assert TaskId.parse(str(task)) == task
    assert load(TaskId, dump(task)) == task


@pytest.mark.parametrize("text", ["s:t:1:A", "s:t:1:A:B:C"])
def test_each_task_id_has_one_text(text: str) -> None:
    assert str(TaskId.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "s:t:1",
        "s:t:0:A",
        "s:t:+1:A",
        "s:t:01:A",
        "s:t:1_0:A",
        "s:t: 1:A",
        "s:t:\u0661:A",
        "S:t:1:A",
        "s:t\n:1:A",
        "s:t:1:",
        "s:t:1:a/b",
        "s:t:1:A\n",
        "s:t:" + "9" * 5_000 + ":A",
        "../s:t:1:A",
        "s:t:1:" + "A" * 65,
    ],
)
def test_any_other_text_is_no_task_id(text: str) -> None:
    with pytest.raises(MessageError, match="no task id"):
        TaskId.parse(text)


@pytest.mark.parametrize(
    "notice",
    [
        Heartbeat(),
        TaskClosed(task=TASK),
        TaskNotice(task=TASK, size=5, sha256="ab" * 32, max_reply=7, seconds=1.5),
        Welcome(protocol=1, version="0.1", session=TOKEN, server_time=1.0, heartbeat_seconds=5.0),
    ],
)
def test_a_notice_is_read_back(notice: Any) -> None:
    assert load_notice(dump(notice)) == notice


@given(content=st.binary(max_size=80) | st.text(max_size=80).map(lambda text: text.encode(errors="replace")))
def test_of_any_bytes_only_a_message_error_comes_out(content: bytes) -> None:
    for kind in _TYPES:
        if kind is not Empty and kind is not BeginRequest and kind is not Heartbeat:
            with pytest.raises(MessageError):
                load(kind, content)
    with pytest.raises(MessageError):
        load_notice(content)


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"kind":"upload"}',
        b'{"kind":"heartbeat","more":1}',
        b'{"kind":["heartbeat"]}',
        b'{"kind":"task-closed","task":{"study":"s","step":"t","attempt":' + b"9" * 10_000 + b',"site":"A"}}',
        b'{"kind":"task-closed","task":{"study":"s","step":"t","attempt":1e0,"site":"A"}}',
        b'{"kind":"task-closed","task":{"study":"s","step":"t","attempt":"1","site":"A"}}',
        b'{"kind":"task-closed","task":{"study":"s","step":"t","attempt":true,"site":"A"}}',
        b'{"kind":"task-closed","task":{"study":"s","step":"t","attempt":1,"site":"\\ud800"}}',
    ],
    ids=lambda content: content[:60].decode(),
)
def test_hostile_notices_are_refused(content: bytes) -> None:
    with pytest.raises(MessageError):
        load_notice(content)


@pytest.mark.parametrize("value", [b"NaN", b"Infinity", b"-1", b"1e400", b"3601"])
def test_numbers_outside_their_range_are_refused(value: bytes) -> None:
    welcome = dump(Welcome(protocol=1, version="1", session=TOKEN, server_time=1.0, heartbeat_seconds=5.0))
    broken = welcome.replace(b'"heartbeat_seconds":5.0', b'"heartbeat_seconds":' + value)
    assert broken != welcome
    with pytest.raises(MessageError, match="heartbeat_seconds"):
        load_notice(broken)


def test_what_is_too_large_is_not_parsed() -> None:
    for read in (load_notice, lambda content: load(Empty, content)):
        with pytest.raises(MessageError, match="too large"):
            read(b" " * (MAX_CALL + 1))
    assert load(Empty, b" " * (MAX_CALL - 2) + b"{}") == Empty()


def test_an_error_names_the_key_and_holds_no_value() -> None:
    with pytest.raises(MessageError, match=r"'task\.attempt'") as refusal:
        load(UploadHeader, dump(_header()).replace(b'"attempt":2', b'"attempt":"patient 17"'))
    assert "patient" not in str(refusal.value)
    assert refusal.value.__cause__ is None
    assert refusal.value.__suppress_context__


def test_an_unknown_key_of_the_peers_choice_neither_fills_nor_breaks_a_log() -> None:
    with pytest.raises(MessageError) as refusal:
        load(Empty, b'{"\\n\\u001b[31mforged line' + b"x" * 100_000 + b'":1}')
    assert len(str(refusal.value)) < 400
    assert str(refusal.value).isprintable()


def test_every_token_is_kept_out_of_what_is_printed() -> None:
    tokens = [(kind, name) for kind in _TYPES for name in kind.model_fields if name == "session"]
    assert len(tokens) >= 5
    for kind, name in tokens:
        values: dict[str, Any] = {name: TOKEN}
        value = kind.model_construct(**values)
        assert TOKEN not in repr(value) + str(value), kind
    assert TOKEN not in repr(_header())
    assert Token.__metadata__[0].repr is False  # type: ignore[attr-defined]


def test_a_refused_token_is_not_printed_either() -> None:
    with pytest.raises(MessageError) as refusal:
        load(UploadHeader, dump(_header()).replace(TOKEN.encode(), b"secret" * 9))
    assert "secret" not in str(refusal.value)


@pytest.mark.parametrize(
    ("theirs", "ours", "agreed"), [((1,), (1,), 1), ((1, 2), (2, 3), 2), ((3, 2), (2, 3), 3), ((1, 2, 9), (1, 2), 2)]
)
def test_the_newest_common_version_is_spoken(theirs: tuple[int, ...], ours: tuple[int, ...], agreed: int) -> None:
    assert agree(theirs, ours) == agreed


@pytest.mark.parametrize(
    ("theirs", "ours", "whose"), [((1,), (2, 3), "site"), ((4,), (2, 3), "coordinator"), ((), (1,), "site")]
)
def test_without_a_common_version_it_is_said_who_updates(
    theirs: tuple[int, ...], ours: tuple[int, ...], whose: str
) -> None:
    with pytest.raises(PeerRefused, match=f"Update Hansa at the {whose}") as refusal:
        agree(theirs, ours)
    assert refusal.value.denial == Denial.PROTOCOL


def test_values_cannot_be_changed_and_lists_have_an_end() -> None:
    with pytest.raises(ValidationError):
        _header().size = 3  # type: ignore[misc]
    with pytest.raises(MessageError, match="protocols"):
        load(BeginRequest, b'{"protocols":[' + b"1," * 16 + b"1]}")
    with pytest.raises(ValidationError):
        AttachRequest(version="1", counter=2**53 + 1, signature="00" * 64)


def test_a_reply_and_a_decision_travel_as_json() -> None:
    decision = Decision(federation="t", site="A", study="s", digest="ab" * 32, approved=True, decided_at=1)
    for value in (decision, StoredReply(stored=1 << 40, complete=False)):
        assert load(type(value), dump(value)) == value


def _header() -> UploadHeader:
    return UploadHeader(session=TOKEN, task=TASK, size=3, sha256="ab" * 32)
