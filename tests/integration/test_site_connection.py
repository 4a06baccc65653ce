"""A site's connection, in this process, to a coordinator that is killed."""

import asyncio
import hashlib
import os
import signal
import time
from pathlib import Path

import pytest
from tests.chaos.members import Members

from hansa_client.connection import Connection
from hansa_client.folder import SiteFolder
from hansa_common.errors import HansaError, PeerRefused, Unreachable
from hansa_common.wire.protocol import AnyNotice, Empty, ProposalsReply, TaskId

TASK = TaskId(study="small", step="train-1", attempt=1, site="site-1")
UPLOADS = 120
APART = 0.0005  # seconds from one upload's begin to the next's
MOMENT = 3.0  # seconds in which each must be over; a silent coordinator is given 20


def test_no_upload_outlives_the_session_that_a_killed_coordinator_leaves(tmp_path: Path) -> None:
    content = b"a reply" * 600
    path = tmp_path / "reply"
    path.write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    over: list[float] = []
    refused: list[HansaError] = []

    async def listen(_notice: AnyNotice) -> None:
        return

    async def upload(connection: Connection, number: int) -> None:
        await asyncio.sleep(number * APART)
        begun = time.monotonic()
        try:
            await connection.upload(TASK, path, len(content), digest, resume=False)
        except (PeerRefused, Unreachable) as error:
            refused.append(error)
        over.append(time.monotonic() - begun)

    async def kill_in_the_middle(pid: int) -> None:
        connection = Connection(SiteFolder(tmp_path / "site-1"), listen, refused.append)
        running = asyncio.create_task(connection.run())
        await connection.attached.wait()
        uploads = [asyncio.create_task(upload(connection, number)) for number in range(UPLOADS)]
        asyncio.get_running_loop().call_later(UPLOADS * APART / 3, os.kill, pid, signal.SIGKILL)
        await asyncio.gather(*uploads)
        assert not running.done()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    with Members(tmp_path, ("site-1",)) as federation:
        asyncio.run(kill_in_the_middle(federation.pid))
    assert len(over) == len(refused) == UPLOADS
    assert max(over) < MOMENT


def test_a_call_on_a_connection_that_was_just_closed_is_no_crash(tmp_path: Path) -> None:
    async def listen(_notice: AnyNotice) -> None:
        return

    async def call_after_the_end() -> None:
        connection = Connection(SiteFolder(tmp_path / "site-1"), listen, lambda _error: None)
        running = asyncio.create_task(connection.run())
        await connection.attached.wait()
        await connection.drop()
        connection.session = "not known to be over"  # as it is for a moment while a channel is being closed
        with pytest.raises(Unreachable):
            await connection.call("Proposals", Empty(), ProposalsReply)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    with Members(tmp_path, ("site-1",)):
        asyncio.run(call_after_the_end())
