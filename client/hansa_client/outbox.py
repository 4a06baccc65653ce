"""The outbox: replies on this site's disk until the coordinator has them on its own.

A reply is written and synced before a byte of it is sent, and deleted when the coordinator acknowledged it. That a task
was replied to is remembered until its study is over: to ask for it again gets the stored reply, or a refusal once that
is acknowledged. Nothing is trained, noised or masked twice.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Final

from pydantic import Field, ValidationError

from hansa_common.errors import StorageError
from hansa_common.failpoints import reach
from hansa_common.files import storage, sync_file, sync_folder, write_whole
from hansa_common.roster import Hash
from hansa_common.settings import Strict
from hansa_common.wire.codec import Parcel
from hansa_common.wire.protocol import Size, TaskId

_ADVICE: Final = "Free space or mend the disk; the task is done again when it is asked again."


class Entry(Strict):
    """One reply."""

    task: TaskId
    size: Size
    sha256: Hash
    acknowledged: bool = False
    look: Annotated[str, Field(max_length=200)] = ""
    """The plan's digest and the step of it that this site's data answered. A step that the work refused counts too, for
    a refusal can tell of the data; empty for what never came to the work."""


class Outbox:
    """The folder of replies.

    Args:
        folder: Made where it is missing.

    Raises:
        StorageError: It cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with storage(folder, "create", advice=_ADVICE):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._entries = {str(entry.task): entry for entry in self._read()}
        self._looks = Counter(entry.look for entry in self._entries.values())

    def put(self, task: TaskId, parcel: Parcel, record: Callable[[Entry], None], *, look: str = "") -> None:
        """Write a reply, durably.

        Args:
            task: What it is the reply to.
            parcel: The reply.
            record: Notes it in the site's record, before it can leave: where that fails there is no reply.
            look: The plan and the step of it that the site's data answer.

        Raises:
            StorageError: The disk is full or fails; there is no reply.
        """
        path, digest, size = self.path(task), hashlib.sha256(), 0
        temporary = path.with_suffix(".writing")
        reach("site.reply.before-write")
        with storage(path, "write", advice=_ADVICE):
            try:
                with temporary.open("wb") as file:
                    for piece in parcel.pieces():
                        digest.update(piece)
                        size += file.write(piece)
                    file.flush()
                    sync_file(file.fileno(), "site.reply.sync")
                temporary.replace(path)
            except OSError:
                temporary.unlink(missing_ok=True)
                raise
            sync_folder(self._folder)
        entry = Entry(task=task, size=size, sha256=digest.hexdigest(), look=look)
        record(entry)
        self._write(entry)
        self._looks[look] += 1
        reach("site.reply.after-write")

    def find(self, task: TaskId) -> Entry | None:
        """Return what there is of a task's reply."""
        return self._entries.get(str(task))

    def looks(self, look: str) -> int:
        """Return how often this site's data answered this step of a plan, whatever the studies and tasks were named."""
        return self._looks[look]

    def waiting(self) -> list[Entry]:
        """Return the replies that the coordinator does not have yet."""
        return [entry for entry in self._entries.values() if not entry.acknowledged]

    def acknowledge(self, task: TaskId) -> None:
        """Delete a reply that the coordinator has, and remember that it was made.

        Raises:
            StorageError: The disk fails; it is sent again.
        """
        entry = self._entries.get(str(task))
        if entry is not None and not entry.acknowledged:
            self._write(entry.model_copy(update={"acknowledged": True}))
            self.path(task).unlink(missing_ok=True)

    def end_study(self, study: str) -> None:
        """Delete the replies of a study that is over, and remember that they were made.

        A coordinator that says so, proposes the same study again and asks for a task of the same name would else get
        a second reply with other noise, for which the ledger, which goes by the task's name, charges nothing.

        Raises:
            StorageError: The disk fails.
        """
        for entry in [entry for entry in self._entries.values() if entry.task.study == study]:
            self.acknowledge(entry.task)

    def path(self, task: TaskId) -> Path:
        """Return where a task's reply lies."""
        return self._folder / f"{hashlib.sha256(str(task).encode()).hexdigest()}.reply"

    def _note(self, task: TaskId) -> Path:
        return self.path(task).with_suffix(".json")

    def _write(self, entry: Entry) -> None:
        write_whole(self._note(entry.task), entry.model_dump_json().encode(), mode=0o600)
        self._entries[str(entry.task)] = entry

    def _read(self) -> Iterator[Entry]:
        for leftover in self._folder.glob("*.writing"):
            leftover.unlink(missing_ok=True)
        for note in sorted(self._folder.glob("*.json")):
            try:
                entry = Entry.model_validate_json(note.read_bytes())
            except (OSError, ValidationError) as error:
                raise StorageError(f"{note} cannot be read back.", advice="Restore it from a backup.") from error
            if entry.acknowledged or self.path(entry.task).exists():
                yield entry
