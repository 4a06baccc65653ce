"""Durable tasks: what is kept of them, and for how long."""

from hashlib import sha256
from pathlib import Path

import pytest

from hansa_common.wire.protocol import TaskId
from hansa_server.federation.control import MESSAGE
from hansa_server.federation.database import open_database
from hansa_server.federation.tasks import Incoming, NewTask, Tasks

CONTENT = b"what is asked"


def replied(tasks: Tasks, folder: Path, step: str) -> TaskId:
    """A task that was asked and answered."""
    task = TaskId(study="one", step=step, attempt=1, site="a")
    digest = sha256(CONTENT + step.encode()).hexdigest()
    path = tasks.content_path("one", digest)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(CONTENT)
    tasks.push([NewTask(task=task, content=digest, size=len(CONTENT), max_reply=100, deadline=2e9)])
    reply = Incoming(tasks.reply_path(str(task)), 2, sha256(b"ok").hexdigest())
    reply.write(b"ok")
    reply.complete()
    reply.close()
    tasks.replied(task, reply.path, 2)
    return task


@pytest.mark.parametrize(("step", "kept"), [("train-1", True), ("evaluate", True), (f"{MESSAGE}0123", False)])
def test_what_another_app_was_told_goes_once_it_was_read(tmp_path: Path, step: str, *, kept: bool) -> None:
    """A study of Hansa asks again after a restart; another app never does, and could fill the disk."""
    tasks = Tasks(open_database(tmp_path / "hansa.db"), tmp_path / "exchange")
    (tmp_path / "exchange").mkdir()
    task = replied(tasks, tmp_path, step)
    assert [outcome.size for outcome in tasks.outcomes([str(task)])] == [2]
    assert tasks.close([str(task)]) == []  # it is not open
    assert bool(tasks.outcomes([str(task)])) == kept
    assert bool(list((tmp_path / "exchange" / "one").iterdir())) == kept
    again = Tasks(open_database(tmp_path / "hansa.db"), tmp_path / "exchange")
    assert bool(again.outcomes([str(task)])) == kept
