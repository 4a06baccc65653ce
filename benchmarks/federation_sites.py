"""Many sites in one process, each with a certificate and a connection of its own, that answer without a model.

``python -m benchmarks.federation_sites FOLDER FAULTS`` attaches every site folder below FOLDER. FAULTS is the share of
replies before which a site drops its connection. The connection is the real one of ``hansa_client``; what it lacks is
the worker and the outbox, which would cost the machine 200 processes.
"""

import asyncio
import logging
import random
import sys
import tempfile
from collections.abc import Awaitable, Callable
from hashlib import sha256
from pathlib import Path

import structlog

from benchmarks.echo_client import _parse, _reply
from hansa_client.connection import Connection
from hansa_client.folder import SiteFolder
from hansa_common.errors import HansaError
from hansa_common.messages import Delivered, DeliverTask, Message, OpenTask, decode, encode
from hansa_common.wire.codec import Kind, Parcel, read_parcel
from hansa_common.wire.protocol import AnyNotice, TaskNotice

_PAUSE = 0.02  # seconds before a reply is sent again


class EchoSite:
    """One site.

    Args:
        path: Its folder.
        scratch: For what comes and goes.
        faults: Share of replies before which it drops its connection.
    """

    def __init__(self, path: Path, scratch: Path, faults: float) -> None:
        folder = SiteFolder(path)
        self.name = folder.membership().site
        self.connection = Connection(folder, self._on_notice, lambda _error: None)
        self._scratch = scratch
        self._faults = faults
        self._rng = random.Random(self.name)
        self._plan = ""
        self._doing: dict[str, asyncio.Task[None]] = {}

    async def _on_notice(self, notice: AnyNotice) -> None:
        if isinstance(notice, TaskNotice) and str(notice.task) not in self._doing:
            task = asyncio.create_task(self._do(notice))
            self._doing[str(notice.task)] = task
            task.add_done_callback(lambda _task: self._doing.pop(str(notice.task), None))

    async def _do(self, notice: TaskNotice) -> None:
        name = sha256(str(notice.task).encode()).hexdigest()
        incoming, outgoing = self._scratch / f"{name}.task", self._scratch / f"{name}.reply"
        if not outgoing.exists():
            await self._attempt(lambda: self.connection.download(notice, incoming))
            size, digest = await asyncio.to_thread(self._answer, notice, incoming, outgoing)
            incoming.unlink()
        else:
            content = outgoing.read_bytes()
            size, digest = len(content), sha256(content).hexdigest()
        if self._rng.random() < self._faults:
            await self.connection.drop()
        await self._attempt(lambda: self.connection.upload(notice.task, outgoing, size, digest, resume=False))
        outgoing.unlink(missing_ok=True)

    async def _attempt(self, call: Callable[[], Awaitable[object]]) -> None:
        while True:
            try:
                await self.connection.attached.wait()
                await call()
            except HansaError as error:
                if getattr(error, "denial", "") == "no-task":
                    return
                await asyncio.sleep(_PAUSE)
            else:
                return

    def _answer(self, notice: TaskNotice, incoming: Path, outgoing: Path) -> tuple[int, str]:
        with incoming.open("rb") as file:
            task = decode(read_parcel(file, notice.size).envelope)
        if isinstance(task.header, OpenTask):
            self._plan = task.header.plan
        known = _parse(self._plan)
        if isinstance(task.header, DeliverTask):
            reply = Message(header=Delivered(plan_digest=known[1], site=self.name))
        else:
            reply = _reply(task, known, self.name)
        digest, size = sha256(), 0
        with outgoing.open("wb") as file:
            for piece in Parcel(kind=Kind.HANSA, envelope=encode(reply)).pieces():
                digest.update(piece)
                size += file.write(piece)
        return size, digest.hexdigest()


def _folders(folder: Path) -> list[Path]:
    return [path.parent for path in sorted(folder.glob("*/membership.json"))]


async def main(folder: Path, faults: float) -> None:
    """Attach all and stay."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        sites = [EchoSite(path, Path(scratch), faults) for path in _folders(folder)]
        await asyncio.gather(*(site.connection.run() for site in sites))


if __name__ == "__main__":
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    asyncio.run(main(Path(sys.argv[1]), float(sys.argv[2])))
