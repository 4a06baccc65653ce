"""Durable tasks and replies: what the server asked, of whom, and what came back.

A task is open until it is replied to, has failed (its site was revoked) or is closed (nobody waits for it).
Its id is its identity: to push it again changes nothing, so a study that was killed asks again and gets the replies
that were stored. A reply is a file that is complete, synced and renamed before its row says so, and the row is
committed before the site is told; the site's copy goes only then.
"""

import errno
import hashlib
import os
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Column, ColumnElement, Engine, Float, Index, Integer, String, Table, and_, delete, select, update
from sqlalchemy.dialects.sqlite import insert

from hansa_common.errors import PeerRefused
from hansa_common.failpoints import reach
from hansa_common.files import storage, sync_file, sync_folder
from hansa_common.wire.protocol import Denial, TaskId, TaskNotice
from hansa_server.federation.control import MESSAGE
from hansa_server.federation.database import metadata, transaction

OPEN: Final = "open"
REPLIED: Final = "replied"
FAILED: Final = "failed"
CLOSED: Final = "closed"
_AT_ONCE: Final = 500  # ids in one question to the database
_ROUND: Final = "train-"  # what the names of rounds begin with

tasks = Table(
    "tasks",
    metadata,
    Column("id", String, primary_key=True),
    Column("study", String, nullable=False),
    Column("step", String, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("site", String, nullable=False),
    Column("content", String, nullable=False),  # SHA-256
    Column("size", Integer, nullable=False),  # bytes
    Column("max_reply", Integer, nullable=False),  # bytes
    Column("deadline", Float, nullable=False),  # Unix time in seconds
    Column("state", String, nullable=False),
    Column("reply_size", Integer, nullable=False, default=0),  # bytes
    Column("failure", String, nullable=False, default=""),
    Index("tasks_by_site", "site", "state"),
    Index("tasks_by_study", "study", "step"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewTask:
    """A task to be done.

    Attributes:
        task: Its id.
        content: SHA-256 of its bytes, which lie in the exchange folder.
        size: Number of its bytes.
        max_reply: Bytes that a reply may have at most.
        deadline: Unix time in seconds after which nobody waits.
    """

    task: TaskId
    content: str
    size: int
    max_reply: int
    deadline: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a task ended.

    Attributes:
        task: Its id.
        path: File of the reply, where there is one.
        size: Its bytes.
        failure: Why there is none.
    """

    task: str
    path: Path | None = None
    size: int = 0
    failure: str = ""


class Tasks:
    """The tasks of all studies of one coordinator.

    What is open and what has ended is in memory too: each call asks, and there is one writer.

    Args:
        engine: The database.
        folder: The exchange folder, for contents and replies.
    """

    def __init__(self, engine: Engine, folder: Path) -> None:
        self._engine = engine
        self._folder = folder
        self._reopen_lost()
        with engine.connect() as connection:
            ended = select(tasks.c.id).where(tasks.c.state.in_((REPLIED, FAILED)))
            self._ended = set(connection.execute(ended).scalars())
            open_ = connection.execute(select(tasks).where(tasks.c.state == OPEN)).all()
        self._open = {row.id: _new_task(row) for row in open_}

    def _reopen_lost(self) -> None:
        """Ask again for replies that a restored backup does not have: its database is older than its files."""
        with transaction(self._engine) as connection:
            for task in connection.execute(select(tasks.c.id).where(tasks.c.state == REPLIED)).scalars().all():
                if not self.reply_path(task).exists():
                    connection.execute(update(tasks).where(tasks.c.id == task).values(state=OPEN))

    def content_path(self, study: str, content: str) -> Path:
        """Return where a task's bytes lie."""
        return self._folder / study / f"task-{content}"

    def reply_path(self, task: str) -> Path:
        """Return where a task's reply lies, or will lie."""
        return self._folder / TaskId.parse(task).study / f"reply-{hashlib.sha256(task.encode()).hexdigest()}"

    def push(self, new: Sequence[NewTask]) -> None:
        """Open tasks; those that are there already keep what has come of them, and one that was closed is open again.

        A round's content follows from the checkpoint and is the same when it is asked again; that of another step (a
        card with times in it) may differ, and the newest is what an open task has.

        Raises:
            RuntimeError: A round's task has another content: the caller's bug.
            StorageError: The disk is full or fails; no task is opened.
        """
        reach("server.task.before-write")
        with transaction(self._engine) as connection:
            for task in new:
                row = {
                    "id": str(task.task),
                    "study": task.task.study,
                    "step": task.task.step,
                    "attempt": task.task.attempt,
                    "site": task.task.site,
                    "content": task.content,
                    "size": task.size,
                    "max_reply": task.max_reply,
                    "deadline": task.deadline,
                    "state": OPEN,
                }
                connection.execute(insert(tasks).values(row).on_conflict_do_nothing())
                connection.execute(
                    update(tasks)
                    .where(tasks.c.id == row["id"], tasks.c.state.in_((OPEN, CLOSED)))
                    .values(state=OPEN, deadline=task.deadline)
                )
                known = connection.execute(select(tasks.c.content).where(tasks.c.id == row["id"])).scalar_one()
                if known != task.content and not is_round(task.task.step):
                    connection.execute(
                        update(tasks)
                        .where(tasks.c.id == row["id"], tasks.c.state == OPEN)
                        .values(content=task.content, size=task.size)
                    )
                elif known != task.content:
                    raise RuntimeError(f"Task {task.task} is there with another content.")
        self._open.update({str(task.task): task for task in new if str(task.task) not in self._ended})
        reach("server.task.after-write")

    def forget(self, study: str, *, keep: Collection[str]) -> list[TaskId]:
        """Drop the tasks of a study's earlier rounds, with their replies and contents; return those that were open.

        Args:
            study: Its id.
            keep: Steps that stay; so do all that are no rounds, which a study that is started again asks for again.
        """
        gone = and_(tasks.c.study == study, tasks.c.step.startswith(_ROUND), tasks.c.step.not_in(list(keep)))
        return self._drop(study, gone)

    def _drop(self, study: str, gone: ColumnElement[bool]) -> list[TaskId]:
        with transaction(self._engine) as connection:
            rows = connection.execute(select(tasks.c.id, tasks.c.state).where(gone)).all()
            if not rows:
                return []
            connection.execute(delete(tasks).where(gone))
            contents = set(connection.execute(select(tasks.c.content).where(tasks.c.study == study)).scalars())
        for row in rows:
            self._ended.discard(row.id)
            self._open.pop(row.id, None)
            self._remove_reply(row.id)
        for path in (self._folder / study).glob("task-*"):
            if path.name.removeprefix("task-") not in contents:
                path.unlink(missing_ok=True)
        return [TaskId.parse(row.id) for row in rows if row.state == OPEN]

    def open_for(self, site: str) -> list[TaskNotice]:
        """Return the open tasks of a site, the oldest first."""
        return [_notice(task) for task in self._open.values() if task.task.site == site]

    def notice(self, task: TaskId) -> TaskNotice | None:
        """Return what a site is told of a task, or ``None`` where it is not open."""
        found = self._open.get(str(task))
        return _notice(found) if found is not None else None

    def open_task(self, task: TaskId, site: str) -> TaskNotice | None:
        """Return a task that this site may reply to; ``None`` where it has replied already.

        Raises:
            PeerRefused: There is no such task for this site, or nobody waits for it.
        """
        if task.site == site:
            if str(task) in self._open:
                return self.notice(task)
            if str(task) in self._ended and any(outcome.path for outcome in self.outcomes((str(task),))):
                return None
        raise PeerRefused("There is no such task for this site, or nobody waits for it.", denial=Denial.NO_TASK)

    def replied(self, task: TaskId, part: Path, size: int) -> None:
        """Make a complete, synced file the reply of a task: only one can be.

        Raises:
            PeerRefused: Nobody waits for it.
            StorageError: The disk is full or fails; the task is open as before.
        """
        path = self.reply_path(str(task))
        reach("server.reply.before-store")
        with storage(path, "store", advice="Free space or mend the disk; the site sends it again."):
            part.replace(path)
            sync_folder(path.parent)
        with transaction(self._engine) as connection:
            changed = connection.execute(
                update(tasks)
                .where(tasks.c.id == str(task), tasks.c.state == OPEN)
                .values(state=REPLIED, reply_size=size)
            )
        if not changed.rowcount:
            raise PeerRefused("Nobody waits for this reply any more.", denial=Denial.NO_TASK)
        self._open.pop(str(task), None)
        self._ended.add(str(task))
        reach("server.reply.after-store")

    def fail_site(self, site: str, reason: str) -> list[str]:
        """Give up a site's open tasks, and return the ids of the studies that wait for them."""
        mine = and_(tasks.c.site == site, tasks.c.state == OPEN)
        with transaction(self._engine) as connection:
            given_up = connection.execute(select(tasks.c.id, tasks.c.study).where(mine)).all()
            connection.execute(update(tasks).where(mine).values(state=FAILED, failure=reason))
        for row in given_up:
            self._open.pop(row.id, None)
        self._ended.update(row.id for row in given_up)
        return sorted({row.study for row in given_up})

    def close(self, ids: Iterable[str]) -> list[TaskId]:
        """Stop waiting for these tasks, and return those that were open.

        Another app asks for nothing twice: its tasks go with their contents and replies.
        """
        closed: list[TaskId] = []
        once: dict[str, list[str]] = {}
        with transaction(self._engine) as connection:
            for task in ids:
                changed = connection.execute(
                    update(tasks).where(tasks.c.id == task, tasks.c.state == OPEN).values(state=CLOSED)
                )
                closed += [TaskId.parse(task)] if changed.rowcount else []
                self._open.pop(task, None)
                parsed = TaskId.parse(task)
                if parsed.step.startswith(MESSAGE):
                    once.setdefault(parsed.study, []).append(task)
        for study, gone in once.items():
            self._drop(study, tasks.c.id.in_(gone))
        return closed

    def outcomes(self, ids: Collection[str]) -> list[Outcome]:
        """Return how those of these tasks ended that have."""
        known = sorted(self._ended.intersection(ids))
        with self._engine.connect() as connection:
            rows = [
                row
                for start in range(0, len(known), _AT_ONCE)
                for row in connection.execute(select(tasks).where(tasks.c.id.in_(known[start : start + _AT_ONCE])))
                if row.state in (REPLIED, FAILED)
            ]
        return [
            Outcome(
                task=row.id,
                path=self.reply_path(row.id) if row.state == REPLIED else None,
                size=row.reply_size,
                failure=row.failure,
            )
            for row in rows
        ]

    def count_open(self) -> int:
        """Return how many tasks are open."""
        return len(self._open)

    def end_study(self, study: str) -> list[TaskId]:
        """Drop all tasks of a study, and return those that were open."""
        opened = self._drop(study, tasks.c.study == study)
        folder = self._folder / study
        for path in folder.glob("*") if folder.is_dir() else ():
            path.unlink(missing_ok=True)
        return opened

    def _remove_reply(self, task: str) -> None:
        path = self.reply_path(task)
        path.unlink(missing_ok=True)
        path.with_suffix(".part").unlink(missing_ok=True)


def is_round(step: str) -> bool:
    """Tell whether a step is a round's training."""
    return step.startswith(_ROUND)


class Incoming:
    """The part of a reply that has come so far: a file that the next try goes on with.

    Args:
        path: Of the reply; the part lies beside it.
        size: Announced bytes.
        sha256: Announced digest; a part of another announcement is thrown away.
    """

    def __init__(self, path: Path, size: int, sha256: str) -> None:
        self.path = path.with_suffix(".part")
        self._name = path.with_suffix(".announced")
        self._size = size
        self._sha256 = sha256
        with storage(self.path, "store", advice="Free space or mend the disk; the site sends it again."):
            path.parent.mkdir(parents=True, exist_ok=True)
            if not self._name.exists() or self._name.read_text() != f"{size} {sha256}":
                self.path.unlink(missing_ok=True)
                self._name.write_text(f"{size} {sha256}")
            self._file = self.path.open("ab", buffering=0)
            self.stored = os.fstat(self._file.fileno()).st_size

    def write(self, chunk: bytes) -> None:
        """Add a chunk.

        Raises:
            PeerRefused: It is longer than announced.
            StorageError: The disk is full or fails.
        """
        if self.stored + len(chunk) > self._size:
            raise PeerRefused("The reply is longer than announced.", denial=Denial.TOO_LARGE)
        with storage(self.path, "store", advice="Free space or mend the disk; the site sends it again."):
            if self._file.write(chunk) != len(chunk):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.stored += len(chunk)

    def complete(self) -> None:
        """Sync and check the whole.

        Raises:
            PeerRefused: These are not the bytes that were announced; the part is thrown away.
            StorageError: The disk fails; the part is thrown away.
        """
        with storage(self.path, "store", advice="Free space or mend the disk; the site sends it again."):
            try:
                sync_file(self._file.fileno(), "server.reply.sync")
            except OSError:
                self.path.unlink(missing_ok=True)
                raise
            with self.path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != self._sha256:
            self.path.unlink(missing_ok=True)
            raise PeerRefused("The bytes are not those that were announced.", denial=Denial.DIGEST)
        self._name.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the file; what has come stays."""
        self._file.close()


def _new_task(row: Any) -> NewTask:
    return NewTask(
        task=TaskId.parse(row.id), content=row.content, size=row.size, max_reply=row.max_reply, deadline=row.deadline
    )


def _notice(task: NewTask) -> TaskNotice:
    return TaskNotice(
        task=task.task,
        size=task.size,
        sha256=task.content,
        max_reply=task.max_reply,
        seconds=max(0.0, task.deadline - time.time()),
    )
