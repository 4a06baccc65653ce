"""The journal: an append-only, hash-chained record of what was decided, what left and what was refused.

One JSON object a line, spelled in one way only. ``hash`` is the SHA-256 of the canonical bytes of the others,
``previous`` the hash of the line before, so a line that is changed, taken out or put in breaks the chain behind it.
Lines taken off the end leave a shorter chain that is whole: whoever noted ``length`` and ``head`` before sees that.
Entries hold hashes, ids and decisions; no data and no values.
"""

import errno
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from pydantic import Field

from hansa_common.canonical import digest
from hansa_common.errors import JournalError, StorageError
from hansa_common.failpoints import reach
from hansa_common.files import sync_file, sync_folder
from hansa_common.settings import Strict

_FIRST = "0" * 64
_LONGEST = 64 << 10  # bytes of a line

Scalar = str | int | bool


class Entry(Strict):
    """One line of a journal."""

    number: Annotated[int, Field(ge=1)]
    time: Annotated[int, Field(ge=0)]
    """Unix time in seconds; what is decided never depends on it."""
    event: Annotated[str, Field(pattern=r"^[a-z-]{1,64}$")]
    details: dict[str, Scalar]
    previous: str
    hash: str

    def computed(self) -> str:
        """Return the hash that this entry must have.

        Raises:
            ValueError: A detail is nothing that JSON can hold: half a character, an integer outside +-(2**53 - 1).
        """
        return digest(self.model_dump(mode="json", exclude={"hash"}))

    def line(self) -> bytes:
        """Return the one way in which this entry is written."""
        return self.model_dump_json().encode() + b"\n"


class Journal:
    """One file, for one writer.

    Args:
        path: The file; made when the first entry is written. A last line that a crash cut off is taken away, for it
            was never acted upon.

    Raises:
        JournalError: What is there is not an unbroken chain.
        StorageError: It cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.length = 0
        self.head = _FIRST
        for entry in read(path, repair=True):
            self.length, self.head = entry.number, entry.hash

    def append(self, event: str, **details: Scalar) -> Entry:
        """Write one entry; it is on the disk when this returns.

        Raises:
            ValueError: A detail cannot be written as JSON, or the entry is longer than a line may be; nothing is
                written.
            StorageError: The disk is full or fails; the journal is as it was.
        """
        draft = Entry(
            number=self.length + 1, time=int(time.time()), event=event, details=details, previous=self.head, hash=""
        )
        entry = draft.model_copy(update={"hash": draft.computed()})
        if len(line := entry.line()) > _LONGEST:
            raise ValueError(f"An entry of {len(line):,} bytes does not fit in a line of a journal.")
        reach("journal.append")
        _append(self.path, line)
        self.length, self.head = entry.number, entry.hash
        return entry


def read(path: Path, *, repair: bool = False) -> Iterator[Entry]:
    """Yield the entries of a journal, each checked against the one before.

    Args:
        path: The file; one that is not there has no entries.
        repair: Cut off a last line without an end, as its writer may.

    Raises:
        JournalError: The chain is broken; the message names the line.
        StorageError: The file cannot be read.
    """
    number, head, position = 0, _FIRST, 0
    try:
        if not path.exists():
            return
        with path.open("rb") as file:
            while line := file.readline(_LONGEST + 1):
                if not line.endswith(b"\n"):
                    if not repair or len(line) > _LONGEST:
                        raise _broken(path, number + 1, "it is cut off")
                    os.truncate(path, position)
                    return
                position += len(line)
                entry = _parse(path, number + 1, line)
                if (entry.number, entry.previous) != (number + 1, head):
                    raise _broken(path, number + 1, "it is not what was written after the line before")
                number, head = entry.number, entry.hash
                yield entry
    except OSError as error:
        raise StorageError(f"Cannot read {path}: {error.strerror}.", advice="Mend the disk.") from error


def _parse(path: Path, number: int, line: bytes) -> Entry:
    try:
        entry = Entry.model_validate_json(line)
        whole = entry.computed() == entry.hash and entry.line() == line
    except ValueError:
        raise _broken(path, number, "it is no entry") from None
    if not whole:
        raise _broken(path, number, "it was changed")
    return entry


def _broken(path: Path, number: int, reason: str) -> JournalError:
    return JournalError(
        f"{path}, line {number}: {reason}.",
        advice="The record was changed or the disk failed; keep the file and compare it with a backup.",
    )


def _append(path: Path, content: bytes) -> None:
    """Write at the end, whole or not at all."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            size = os.fstat(descriptor).st_size
            try:
                _write_durably(descriptor, content)
                if size == 0:
                    sync_folder(path.parent)
            except OSError:
                os.ftruncate(descriptor, size)
                raise
        finally:
            os.close(descriptor)
    except OSError as error:
        raise StorageError(
            f"Cannot write {path}: {error.strerror}.", advice="Free space or mend the disk; nothing was done."
        ) from error


def _write_durably(descriptor: int, content: bytes) -> None:
    if os.write(descriptor, content) != len(content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    sync_file(descriptor, "journal.sync")
