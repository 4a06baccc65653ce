"""The site's agent: takes tasks from its own outbound connection, has them done, and sends what may leave.

It holds the keys, the approvals, the way out and the record of everything that left or was refused. Training runs in a
worker process that has none of these. Killed at any moment, it goes on where its disk says it was.
"""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import structlog

from hansa_client.connection import Connection
from hansa_client.custody import SiteCustody
from hansa_client.delivery import keep_model
from hansa_client.folder import SiteFolder
from hansa_client.gate import Gate
from hansa_client.logs import configure
from hansa_client.outbox import Entry, Outbox
from hansa_client.session import SiteSession, refusal
from hansa_client.worker_process import WorkerProcess
from hansa_common.app_plan import AppPlan
from hansa_common.errors import (
    AnsweredBefore,
    DiskTooFull,
    HansaError,
    IdentityError,
    MessageError,
    PeerRefused,
    SitePaused,
    StorageError,
    TaskRefused,
    TrainingError,
    Unreachable,
    UsageError,
)
from hansa_common.failpoints import reach
from hansa_common.files import storage
from hansa_common.messages import Delivered, DeliverTask, Envelope, Message, decode, encode, header_of
from hansa_common.plan import StudyPlan
from hansa_common.wire.codec import Kind, Parcel, read_parcel
from hansa_common.wire.protocol import (
    PROTOCOLS,
    AnyNotice,
    Denial,
    Empty,
    Proposal,
    RosterNotice,
    StudyClosed,
    TaskClosed,
    TaskId,
    TaskNotice,
    Welcome,
)

_MOST_TASKS: Final = 10_000  # announced and not done
_MOST_REFUSED: Final = 1_000  # entries of the record about one agent's coordinator
_RETRY: Final = (0.05, 1.0)  # seconds: first and longest wait before a reply is sent again
_log = structlog.get_logger()


def run(path: Path, *, protocols: tuple[int, ...] = PROTOCOLS) -> None:
    """Run a site until SIGTERM, SIGINT or ``hansa site stop``.

    Raises:
        UsageError: The folder is no site's, or another agent works in it.
        HansaError: The site cannot start; the message says what to do.
    """
    folder = SiteFolder(path)
    folder.lock()
    configure(path / "agent.log")
    asyncio.run(Agent(folder, protocols=protocols).run())


class Agent:
    """One site at work.

    Args:
        folder: The site's, locked.
        protocols: Versions that it speaks.
    """

    def __init__(self, folder: SiteFolder, *, protocols: tuple[int, ...] = PROTOCOLS) -> None:
        self._folder = folder
        self._site = folder.membership().site
        self._settings = folder.settings()
        self._journal = folder.journal()
        self._outbox = Outbox(folder.path / "outbox")
        self._gate = Gate(folder, self._settings)
        self._worker = WorkerProcess(folder.path, self._settings)
        custody, source = SiteCustody(folder, self._settings, head=lambda: self._journal.head), self._settings.source
        self._session = SiteSession(
            name=self._site, approve=self._gate.check, work=self._worker, source=source, custody=custody
        )
        self._connection = Connection(folder, self._on_notice, self._on_refused, protocols=protocols)
        self._tasks: dict[str, TaskNotice] = {}
        self._current = ""
        self._dropped: set[str] = set()
        self._refused: set[tuple[str, str]] = set()  # what is in the record already
        self._changed = asyncio.Event()
        self._to_send = asyncio.Event()
        self._stop = asyncio.Event()
        self._started = time.time()
        self._last_task = ""
        self._recorded_roster = folder.roster().roster.version

    async def run(self) -> None:
        """Work until told to stop."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stop.set)
        self._journal.append("agent-started", paused=self._folder.is_paused())
        self._gate.record(self._journal)
        await asyncio.to_thread(self._worker.start)
        control = await self._listen()
        parts = [asyncio.create_task(part()) for part in (self._connection.run, self._work, self._send)]
        waiting = asyncio.create_task(self._stop.wait())
        try:
            done, _ = await asyncio.wait([*parts, waiting], return_when=asyncio.FIRST_COMPLETED)
            for part in done - {waiting}:
                part.result()
        finally:
            control.close()
            for part in [*parts, waiting]:
                part.cancel()
            await asyncio.to_thread(self._worker.close)
            await asyncio.gather(*parts, waiting, return_exceptions=True)
            self._journal.append("agent-stopped")

    async def _on_notice(self, notice: AnyNotice) -> None:
        match notice:
            case Welcome():
                self._tasks.clear()  # those that are still wanted are announced again
                self._record_rosters()  # those that came with a certificate
                self._to_send.set()
                await self._deliver_decisions()
            case RosterNotice():
                if notice.roster.roster.version > self._folder.roster().roster.version:
                    self._folder.accept_roster(notice.roster, notice.authorities)
                self._record_rosters()
            case Proposal():
                self._take_proposal(notice)
            case StudyClosed():
                self._outbox.end_study(notice.study)
                self._folder.close_proposal(notice.study)
            case TaskNotice():
                if len(self._tasks) >= _MOST_TASKS:
                    raise MessageError(f"More than {_MOST_TASKS:,} tasks were announced.")
                self._tasks[str(notice.task)] = notice
                self._changed.set()
            case TaskClosed():
                self._drop(notice.task)

    def _record_rosters(self) -> None:
        while self._recorded_roster < self._folder.roster().roster.version:
            self._journal.append("roster-accepted", version=self._recorded_roster + 1)
            self._recorded_roster += 1

    def _take_proposal(self, proposal: Proposal) -> None:
        """Keep a proposal; one that cannot be read here must not keep the site from its other studies."""
        try:
            if self._folder.save_proposal(proposal):
                self._journal.append("study-proposed", study=proposal.study, digest=proposal.digest)
        except (MessageError, IdentityError) as error:
            self._on_refused(error)

    def _on_refused(self, error: HansaError) -> None:
        """Record what the coordinator said and this site does not accept; the same is recorded once."""
        what = (error.code, error.message[:500])
        if what in self._refused or len(self._refused) >= _MOST_REFUSED:
            return
        with contextlib.suppress(StorageError):  # a full disk must not end the agent
            self._journal.append("coordinator-refused", code=what[0], reason=what[1])
            self._refused.add(what)

    def _drop(self, task: TaskId) -> None:
        """Forget a task that nobody waits for; if it is being done, end it."""
        self._tasks.pop(str(task), None)
        if self._current == str(task):
            self._dropped.add(str(task))
            self._worker.interrupt()

    async def _deliver_decisions(self) -> None:
        for request in self._folder.decisions().values():
            try:
                await self._connection.call("Decide", request, Empty)
            except PeerRefused as error:
                _log.info("decision not wanted", study=request.decision.study, denial=error.denial)

    async def _work(self) -> None:
        """Do tasks, one at a time, in the order in which they were announced."""
        while True:
            notice = next((task for key, task in self._tasks.items() if key not in self._dropped), None)
            if notice is None:
                self._changed.clear()
                await self._changed.wait()
                continue
            self._current = str(notice.task)
            try:
                await self._do(notice)
                self._tasks.pop(self._current, None)
            except HansaError as error:  # it is tried again, or announced again in the next session
                _log.warning("task interrupted", task=self._current, code=error.code, problem=error.message)
                if isinstance(error, PeerRefused) and error.denial == Denial.NO_TASK:
                    self._tasks.pop(self._current, None)
                await asyncio.sleep(_RETRY[0] if isinstance(error, Unreachable) else _RETRY[1])
                await self._connection.attached.wait()
            finally:
                self._dropped.discard(self._current)
                self._current = ""

    async def _do(self, notice: TaskNotice) -> None:
        """Bring one task to a reply in the outbox."""
        entry = self._outbox.find(notice.task)
        if entry is not None and not entry.acknowledged:
            self._to_send.set()
            return
        if entry is not None:
            self._post(notice, self._refusal(AnsweredBefore("This task was replied to and acknowledged.")))
            return
        path, look = self._incoming(notice), ""
        try:
            self._admit(notice)
            reach("site.task.received")
            await self._connection.download(notice, path)
            with path.open("rb") as file:
                parcel = await asyncio.to_thread(read_parcel, file, notice.size)
            reply, look = await asyncio.to_thread(self._answer, notice, parcel)
        except (TaskRefused, TrainingError, MessageError, IdentityError) as error:
            reply = self._refusal(error)
        if str(notice.task) in self._dropped:
            return
        path.unlink(missing_ok=True)
        self._post(notice, reply, look)

    def _admit(self, notice: TaskNotice) -> None:
        """Check what can be checked before a byte is fetched.

        Raises:
            TaskRefused: The task is not for this site, too large, or the site is paused or expelled.
        """
        if notice.task.site != self._site:
            raise TaskRefused("The task is for another site.")
        if not self._folder.is_member():
            raise TaskRefused("The founder took this site out of the roster.")
        if self._folder.is_paused():
            raise SitePaused("The site is paused.")
        limits = self._settings.limits
        if notice.size > limits.max_task_mb * 1_000_000:
            raise TaskRefused(f"The task is larger than this site's limit of {limits.max_task_mb} MB.")
        free = shutil.disk_usage(self._folder.path).free
        if free < notice.size + limits.min_free_disk_mb * 1_000_000:
            raise DiskTooFull(
                f"The task would leave less than {limits.min_free_disk_mb} MB of this disk.",
                advice="Free space, or lower limits.min_free_disk_mb in site.toml.",
            )

    def _answer(self, notice: TaskNotice, parcel: Parcel) -> tuple[Parcel, str]:
        """Do a task in a thread of its own; whatever fails is a typed refusal. Returns its look at the data, too."""
        self._last_task = str(notice.task)
        plan = self._gate.plan_of(notice.task.study)
        if isinstance(plan, AppPlan):
            return self._gate.flower(plan, notice, parcel, self._worker), ""
        if parcel.kind is not Kind.HANSA:
            raise MessageError("The study is no Flower app.")
        header = header_of(parcel.envelope)
        if isinstance(header, DeliverTask):
            return _parcel(self._keep_model(notice, plan, decode(parcel.envelope))), ""
        look = self._gate.look(plan, header, self._outbox.looks)
        envelope = self._session.handle(parcel.envelope, plan, task=str(notice.task), seconds=notice.seconds)
        if self._folder.is_paused():
            raise SitePaused("The site was paused while it worked on the task.")
        return _parcel(envelope), look

    def _keep_model(self, notice: TaskNotice, plan: StudyPlan, message: Message) -> Envelope:
        """Write the study's last model and its card to this site's disk."""
        header = keep_model(self._folder.path, plan, notice.task.study, message)
        self._journal.append("model-received", study=notice.task.study, sha256=header.sha256)
        return encode(Message(header=Delivered(plan_digest=header.plan_digest, site=self._site)))

    def _refusal(self, error: HansaError) -> Parcel:
        return _parcel(refusal(self._site, error.code, error.public))

    def _post(self, notice: TaskNotice, reply: Parcel, look: str = "") -> None:
        """Record what is about to leave, and put it into the outbox.

        Raises:
            StorageError: The disk is full or fails: nothing leaves.
        """
        code = _refused_code(reply)

        def record(entry: Entry) -> None:
            if code:
                self._journal.append("task-refused", task=str(entry.task), code=code)
            else:
                self._journal.append("reply-released", task=str(entry.task), bytes=entry.size, sha256=entry.sha256)

        self._outbox.put(notice.task, reply, record, look=look)
        self._to_send.set()

    async def _send(self) -> None:
        """Send what is in the outbox, for as long as there is something and a session."""
        wait = _RETRY[0]
        tried: set[str] = set()
        while True:
            await self._connection.attached.wait()
            entries = self._outbox.waiting()
            if not entries:
                self._to_send.clear()
                await self._to_send.wait()
                continue
            for entry in entries:
                try:
                    await self._send_one(entry, resume=str(entry.task) in tried)
                    tried.discard(str(entry.task))
                    wait = _RETRY[0]
                except (PeerRefused, Unreachable, StorageError) as error:
                    _log.info("reply not sent yet", task=str(entry.task), problem=error.message)
                    tried.add(str(entry.task))
                    await asyncio.sleep(wait)
                    wait = min(wait * 2, _RETRY[1])

    async def _send_one(self, entry: Entry, *, resume: bool) -> None:
        try:
            stored = await self._connection.upload(
                entry.task, self._outbox.path(entry.task), entry.size, entry.sha256, resume=resume
            )
        except PeerRefused as error:
            if error.denial not in (Denial.NO_TASK, Denial.TOO_LARGE):
                raise
            self._journal.append("reply-not-wanted", task=str(entry.task), denial=error.denial)
            self._outbox.acknowledge(entry.task)
            return
        if stored.complete:
            reach("site.acknowledged")
            self._outbox.acknowledge(entry.task)
            self._journal.append("reply-acknowledged", task=str(entry.task))

    def _incoming(self, notice: TaskNotice) -> Path:
        folder = self._folder.path / "incoming"
        with storage(folder, "create"):
            folder.mkdir(mode=0o700, exist_ok=True)
        for leftover in folder.iterdir():
            if leftover.name != notice.sha256:
                leftover.unlink(missing_ok=True)
        return folder / notice.sha256

    async def _listen(self) -> asyncio.AbstractServer:
        """Open the socket for ``hansa site status`` and its like: this user's only."""
        descriptor = os.open(self._folder.path, os.O_PATH | os.O_DIRECTORY)
        (self._folder.path / "agent.sock").unlink(missing_ok=True)
        before = os.umask(0o177)
        try:
            return await asyncio.start_unix_server(
                self._command, f"/proc/self/fd/{descriptor}/agent.sock", limit=64 << 10
            )
        finally:
            os.umask(before)
            os.close(descriptor)

    async def _command(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        commands: dict[str, Callable[[], None]] = {
            "status": lambda: None,
            "wake": lambda: self._gate.record(self._journal),
            "pause": self._pause,
            "resume": self._resume,
            "stop": self._stop.set,
        }
        with contextlib.suppress(ConnectionError, ValueError, TypeError, AttributeError):
            request = json.loads(await reader.readline())
            command = commands.get(request.get("command"))
            try:
                if command is None:
                    raise UsageError("There is no such command.")
                command()
                if request["command"] == "wake" and self._connection.session:
                    await self._deliver_decisions()
                answer = self._status()
            except HansaError as error:
                answer = {"error": str(error)}
            writer.write(json.dumps(answer).encode() + b"\n")
            await writer.drain()
        writer.close()

    def _pause(self) -> None:
        self._folder.set_paused(True)
        self._journal.append("paused")
        if self._current:
            self._worker.interrupt()

    def _resume(self) -> None:
        self._folder.set_paused(False)
        self._journal.append("resumed")

    def _status(self) -> dict[str, Any]:
        _start, end = self._folder.certificate_times()
        return {
            "site": self._site,
            "pid": os.getpid(),
            "since": self._started,
            "connected": bool(self._connection.session),
            "problem": self._connection.problem,
            "paused": self._folder.is_paused(),
            "task": self._current,
            "last_task": self._last_task,
            "unsent": len(self._outbox.waiting()),
            "certificate_until": end,
            "clock_offset": self._connection.clock_offset,
            "worker": self._worker.describe(),
        }


def _parcel(envelope: Envelope) -> Parcel:
    return Parcel(kind=Kind.HANSA, envelope=envelope)


def _refused_code(reply: Parcel) -> str:
    """Return the code of a refusal; empty where the reply is none."""
    if reply.kind is not Kind.HANSA:
        return ""
    header = json.loads(reply.envelope.header)
    return str(header["code"]) if header.get("kind") == "refusal" else ""


if __name__ == "__main__":
    try:
        run(Path(sys.argv[1]))
    except HansaError as problem:
        sys.exit(str(problem))
