import contextlib
import errno
import json
import os
import random
import stat
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hansa_common.audit import Entry, Journal, read
from hansa_common.errors import JournalError, StorageError


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A disk that is told to write through hundreds of times is most of a test's time; the calls are counted."""
    calls: list[int] = []
    monkeypatch.setattr(os, "fsync", calls.append)
    return calls


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.jsonl"


def write(path: Path, number: int) -> Journal:
    journal = Journal(path)
    for index in range(number):
        journal.append("task-released", study="digits", round=index, approved=index % 2 == 0, site="Lübeck")
    return journal


def test_entries_are_read_back_in_order(path: Path) -> None:
    written = write(path, 5)
    entries = list(read(path))
    assert [entry.number for entry in entries] == [1, 2, 3, 4, 5]
    assert entries[3].details == {"study": "digits", "round": 3, "approved": False, "site": "Lübeck"}
    assert [entry.previous for entry in entries] == ["0" * 64, *(entry.hash for entry in entries[:-1])]
    assert (written.length, written.head) == (5, entries[-1].hash)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_journal_goes_on_where_it_ended(path: Path) -> None:
    write(path, 3)
    again = write(path, 2)
    assert (again.length, len(list(read(path)))) == (5, 5)


def test_there_is_nothing_to_read_before_the_first_entry(path: Path) -> None:
    assert list(read(path)) == []
    assert Journal(path).length == 0
    assert not path.exists()


def test_an_entry_is_durable_and_so_is_the_file_when_it_is_new(path: Path, no_fsync: list[int]) -> None:
    journal = write(path, 1)
    assert len(no_fsync) == 2  # the file and the folder
    journal.append("task-released")
    assert len(no_fsync) == 3


@given(
    details=st.dictionaries(
        st.text(st.characters(codec="utf-8"), max_size=9),
        st.text(st.characters(codec="utf-8")) | st.integers(-(2**53) + 1, 2**53 - 1) | st.booleans(),
        max_size=4,
    ).filter(lambda details: not {"self", "event"} & set(details))
)
def test_any_detail_is_read_back_as_it_was(tmp_path_factory: Any, details: dict[str, Any]) -> None:
    path = tmp_path_factory.mktemp("journal") / "j"
    Journal(path).append("refused", **details)
    (entry,) = read(path)
    assert {key: (type(value), value) for key, value in entry.details.items()} == {
        key: (type(value), value) for key, value in details.items()
    }


@pytest.mark.parametrize("detail", ["x" * 66_000, 2**53, "\ud800", 1.5, None])
def test_what_could_not_be_read_back_is_not_written(path: Path, detail: Any) -> None:
    journal = write(path, 1)
    before = path.read_bytes()
    with pytest.raises(ValueError):
        journal.append("refused", reason=detail)
    assert path.read_bytes() == before
    journal.append("refused", reason="after all")
    assert len(list(read(path))) == 2


def _tamper(rng: random.Random, content: bytes) -> bytes:
    """Return the journal after somebody was at it."""
    lines = content.splitlines(keepends=True)
    where = rng.randrange(len(lines))
    kind = rng.choice(["bit", "byte", "insert", "drop", "delete", "swap", "double", "cut", "tail", "rewrite", "fork"])
    if kind in ("bit", "byte", "insert", "drop"):
        at = rng.randrange(len(content))
        new = {
            "bit": bytes([content[at] ^ 1 << rng.randrange(8)]),
            "byte": bytes([rng.randrange(256)]),
            "insert": bytes([rng.choice(b' ,\n{}"0a\t')]) + content[at : at + 1],
            "drop": b"",
        }[kind]
        return content[:at] + new + content[at + 1 :]
    if kind == "delete":
        lines.pop(where)
    elif kind == "swap":
        other = rng.randrange(len(lines))
        lines[where], lines[other] = lines[other], lines[where]
    elif kind == "double":
        lines.insert(where, lines[rng.randrange(len(lines))])
    elif kind == "cut":
        return content[: rng.randrange(len(content))]
    elif kind == "tail":
        lines = lines[:where]
    else:  # an insider who knows the format: the entry's own hash is right again; as a fork, all behind it too
        entries = [Entry.model_validate_json(line) for line in lines]
        changes: dict[str, Any] = {"event": "task-refused"}
        for index in range(where, len(entries) if kind == "fork" else where + 1):
            draft = entries[index].model_copy(update=changes)
            entries[index] = draft.model_copy(update={"hash": draft.computed()})
            lines[index] = entries[index].line()
            changes = {"previous": entries[index].hash}
    return b"".join(lines)


def _tampered_journals_that_pass(path: Path, tries: int) -> list[int]:
    """E12, against a reader who noted length and head."""
    noted = write(path, 12)
    content, passed = path.read_bytes(), []
    for seed in range(tries):
        changed = _tamper(random.Random(seed), content)
        if changed == content:
            continue
        path.write_bytes(changed)
        try:
            last = list(read(path))[-1:]
        except JournalError:
            continue
        if last and (last[0].number, last[0].hash) == (noted.length, noted.head):
            passed.append(seed)
    return passed


def test_300_edits_deletes_truncations_reorders_and_forks_are_all_found(path: Path) -> None:
    assert _tampered_journals_that_pass(path, 300) == []


@pytest.mark.slow
def test_10_000_edits_deletes_truncations_reorders_and_forks_are_all_found(path: Path) -> None:
    assert _tampered_journals_that_pass(path, 10_000) == []


@pytest.mark.slow
@given(seed=st.integers(0, 2**32))
@settings(max_examples=200)
def test_whatever_the_file_holds_only_a_journal_error_comes_out(tmp_path_factory: Any, seed: int) -> None:
    path = tmp_path_factory.getbasetemp() / "hostile"
    path.unlink(missing_ok=True)
    write(path, 3)
    rng = random.Random(seed)
    content = path.read_bytes()
    for _ in range(rng.randrange(1, 6)):
        with contextlib.suppress(ValueError):  # an insider needs whole entries to go on from
            content = _tamper(rng, content) or b"\n"
    path.write_bytes(content)
    with contextlib.suppress(JournalError):
        list(read(path))
        Journal(path)


@pytest.mark.parametrize(
    "line",
    [
        b'{"number":1,"time":1152921504606846976,"event":"a","details":{},"previous":"%s","hash":""}\n',
        b'{"number":1,"time":1,"event":"a","details":{"a":1152921504606846976},"previous":"%s","hash":""}\n',
        b'{"number":1,"time":1,"event":"a","details":{"a":"\\ud800"},"previous":"%s","hash":""}\n',
        b"[" * 60_000 + b"\n",
        b"\xff\xfe\n",
        b"1" * 70_000,
        b"1" * 70_000 + b"\n",
        b"\n",
    ],
    ids=["time", "integer", "surrogate", "deep", "not UTF-8", "endless", "long", "empty"],
)
def test_a_hostile_line_is_a_broken_journal_and_no_crash(path: Path, line: bytes) -> None:
    path.write_bytes(line.replace(b"%s", b"0" * 64))
    with pytest.raises(JournalError, match="line 1"):
        Journal(path)


def test_a_spelling_that_hashes_alike_is_refused(path: Path) -> None:
    write(path, 1)
    entry = json.loads(path.read_text())
    for text in (
        json.dumps(entry),
        path.read_text().replace('"event":', '"event":"other","event":', 1).strip(),
        path.read_text().replace("ü", "\\u00fc").strip(),
    ):
        path.write_text(text + "\n")
        with pytest.raises(JournalError, match="line 1: it was changed"):
            list(read(path))


def test_a_line_that_a_crash_cut_off_is_taken_away_by_the_writer_only(path: Path) -> None:
    write(path, 3)
    whole = path.read_bytes()
    size = len(whole.splitlines(keepends=True)[2])
    for kept in range(1, size):
        path.write_bytes(whole[: len(whole) - size + kept])
        with pytest.raises(JournalError, match="line 3: it is cut off"):
            list(read(path))
        assert Journal(path).length == 2
        assert path.read_bytes() == whole[:-size]


@pytest.mark.parametrize("failure", ["write", "short", "fsync"])
def test_when_the_disk_is_full_the_journal_is_as_it_was(
    path: Path, monkeypatch: pytest.MonkeyPatch, failure: str
) -> None:
    journal = write(path, 2)
    before, real = path.read_bytes(), os.write

    def full(*_arguments: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def short(descriptor: int, content: bytes) -> int:
        return real(descriptor, content[:10])

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync" if failure == "fsync" else "write", short if failure == "short" else full)
        with pytest.raises(StorageError, match="No space left"):
            journal.append("refused")
    assert path.read_bytes() == before
    journal.append("refused")
    assert len(list(read(path))) == journal.length == 3


@pytest.mark.slow
def test_the_speed_of_verification(path: Path) -> None:
    write(path, 100_000)
    start = time.perf_counter()
    assert sum(1 for _ in read(path)) == 100_000
    print(f"100,000 entries verified in {time.perf_counter() - start:.1f} s")
