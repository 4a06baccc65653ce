"""Engine ``local``: Flower's Grid over persistent worker processes on this machine, one torch thread each.

A lane is a thread that owns one worker process, gives it one task at a time and waits for the reply. A task goes to
the lane that served its node before, where that node's data is warm, or to any lane that would otherwise be idle.
A worker that dies or misses a task's time to live costs that task an error reply and is replaced.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from flwr.app import Context, Error, Message, RecordDict
from flwr.app.user_config import UserConfig
from flwr.common.constant import NUM_PARTITIONS_KEY, PARTITION_ID_KEY, ErrorCode
from flwr.common.serde import context_to_proto

from hansa_server.engines.frames import (
    Frame,
    Kind,
    bare_message,
    flatten,
    join,
    metadata_of,
    part,
    receive,
    restore,
    send,
)
from hansa_server.engines.grid import OwnGrid

_WAIT = 0.2  # seconds that a pull waits for a first reply
_LARGE = 4 << 20  # bytes; of replies above this size one at a time is in this process's memory
_LONGEST = 30 * 86_400.0  # seconds; a socket takes no timeout of centuries
_JOIN_SECONDS = 5.0
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(slots=True, eq=False)
class _Content:
    """Records in the form in which they travel; shared by all messages that carry the same records."""

    body: bytes
    buffers: list[bytes] = field(repr=False)
    token: object = field(default_factory=object)  # to know it again without holding it


@dataclass(slots=True)
class _Job:
    message: Message
    content: _Content
    expires: float


@dataclass(slots=True)
class _Reply:
    message: Message
    expires: float
    is_large: bool


@dataclass(slots=True)
class _Node:
    """What this machine knows of one node: its configuration and its state between tasks."""

    config: UserConfig
    state: tuple[bytes, list[bytes]]
    lane: int | None = None
    seconds: float = 0.0


class WorkerLostError(Exception):
    """A worker process died, or had to be ended."""


class LocalGrid(OwnGrid):
    """A Flower Grid whose nodes are simulated by worker processes.

    Args:
        client_app: Reference ``module:attribute`` of the ClientApp that every worker loads.
        nodes: How many nodes there are; their ids are 1 to ``nodes``.
        workers: How many processes; by default one for each core, at most one for each node.
        run_config: Flower's run configuration, given to every ClientApp.
        folder: Where a worker looks for modules that are not installed.
        log: File that takes the workers' output; this process's own stderr where it is ``None``.
    """

    def __init__(
        self,
        *,
        client_app: str,
        nodes: int,
        workers: int | None = None,
        run_config: UserConfig | None = None,
        folder: Path | None = None,
        log: Path | None = None,
    ) -> None:
        empty = flatten(RecordDict())
        super().__init__(range(1, nodes + 1))
        self._run_config = run_config or {}
        self._nodes = {
            index + 1: _Node({PARTITION_ID_KEY: index, NUM_PARTITIONS_KEY: nodes}, empty) for index in range(nodes)
        }
        self._changed = threading.Condition()
        self._jobs: list[_Job] = []
        self._running: list[_Job] = []
        self._replies: dict[str, _Reply] = {}
        self._handed_out = 0  # large replies that the caller still works on
        self._room = threading.Semaphore(1)  # for one large reply
        self._closed = False
        count = min(workers or len(os.sched_getaffinity(0)), nodes)
        self._lanes = [_Lane(self, number, client_app, folder or Path.cwd(), log) for number in range(count)]

    def start(self) -> None:
        """Start the worker processes; they load the ClientApp while this process goes on."""
        for lane in self._lanes:
            lane.start()

    def close(self) -> None:
        """End the worker processes."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for lane in self._lanes:
            lane.stop()
        for lane in self._lanes:
            lane.join()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Queue messages; those whose node took longest last time go first.

        Raises:
            ValueError: A message is for a node that is not there.
        """
        contents: dict[int, _Content] = {}
        jobs = []
        for message in messages:
            if message.metadata.dst_node_id not in self._nodes:
                raise ValueError(f"There is no node {message.metadata.dst_node_id}.")
            if id(message.content) not in contents:
                contents[id(message.content)] = _Content(*flatten(message.content))
            message.metadata.__dict__["_message_id"] = uuid.uuid4().hex  # as Flower's own grids set it
            expires = time.monotonic() + message.metadata.ttl
            jobs.append(_Job(message, contents[id(message.content)], expires))
        with self._changed:
            self._forget_expired()
            self._jobs.extend(jobs)
            self._jobs.sort(key=lambda job: -self._nodes[job.message.metadata.dst_node_id].seconds)
            self._changed.notify_all()
        return [job.message.metadata.message_id for job in jobs]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies that are there; wait a moment for a first one where there is none."""
        wanted = set(message_ids)
        with self._changed:
            for _ in range(self._handed_out):  # the caller comes back: it is done with those it got
                self._room.release()
            self._handed_out = 0
            self._changed.wait_for(lambda: not wanted.isdisjoint(self._replies), timeout=_WAIT)
            found = [self._replies.pop(message_id) for message_id in sorted(wanted & self._replies.keys())]
            self._handed_out = sum(reply.is_large for reply in found)
        return [reply.message for reply in found]

    def abandon(self, message_ids: Iterable[str]) -> None:
        """Forget messages whose replies nobody will ask for."""
        abandoned = set(message_ids)
        with self._changed:
            for job in self._jobs + self._running:
                if job.message.metadata.message_id in abandoned:
                    job.expires = 0.0
            self._jobs = [job for job in self._jobs if job.message.metadata.message_id not in abandoned]
            for message_id in abandoned & self._replies.keys():
                self._replies[message_id].expires = 0.0
            self._forget_expired()

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """See Flower's Grid; replies come in the order of the messages, so sums do not depend on who is first."""
        ids = list(self.push_messages(messages))
        waiting = set(ids)
        deadline = None if timeout is None else time.monotonic() + timeout
        replies: list[Message] = []
        while waiting and (deadline is None or time.monotonic() < deadline):
            found = list(self.pull_messages(waiting))
            replies += found
            waiting -= {reply.metadata.reply_to_message_id for reply in found}
        self.abandon(waiting)
        order = {message_id: position for position, message_id in enumerate(ids)}
        return sorted(replies, key=lambda reply: order[reply.metadata.reply_to_message_id])

    def _forget_expired(self) -> None:
        """Drop replies that came too late for anybody to ask for them."""
        now = time.monotonic()
        for message_id in [key for key, reply in self._replies.items() if reply.expires < now]:
            if self._replies.pop(message_id).is_large:
                self._room.release()

    def take(self, lane: int) -> _Job | None:
        """Give a lane its next job, waiting for one; ``None`` when the grid is closed."""
        with self._changed:
            while not self._closed:
                if self._jobs:
                    job = self._jobs.pop(self._choose(lane))
                    self._running.append(job)
                    return job
                self._changed.wait()
        return None

    def _choose(self, lane: int) -> int:
        """Return the position of the first job that is warm on this lane, or is nobody's; else of the first."""
        for position, job in enumerate(self._jobs):
            if self._nodes[job.message.metadata.dst_node_id].lane in (lane, None):
                return position
        return 0

    def context(self, node_id: int) -> bytes:
        """Return a node's context without its state, as protobuf bytes."""
        context = Context(self._run.run_id, node_id, self._nodes[node_id].config, RecordDict(), self._run_config)
        return bytes(context_to_proto(context).SerializeToString())

    def state(self, node_id: int) -> tuple[bytes, list[bytes]]:
        """Return a node's state."""
        return self._nodes[node_id].state

    def make_room(self, timeout: float) -> None:
        """Wait, before a large reply is read, until the caller of ``pull_messages`` is done with the one before.

        Raises:
            TimeoutError: It did not get done in time.
        """
        if not self._room.acquire(timeout=max(0.0, timeout)):
            raise TimeoutError

    def release_room(self) -> None:
        """Give back the room for a large reply that did not reach the caller."""
        self._room.release()

    def deliver(self, job: _Job, reply: Message, lane: int, seconds: float, *, is_large: bool) -> bool:
        """Hand over a reply; tell whether anybody can still ask for it."""
        reply.metadata.__dict__["_message_id"] = uuid.uuid4().hex
        with self._changed:
            self._running.remove(job)
            node = self._nodes[job.message.metadata.dst_node_id]
            node.lane, node.seconds = lane, seconds
            if job.expires < time.monotonic() and is_large:
                return False
            self._replies[job.message.metadata.message_id] = _Reply(reply, job.expires, is_large)
            self._changed.notify_all()
            return True

    def commit(self, node_id: int, state: tuple[bytes, list[bytes]]) -> None:
        """Keep a node's new state."""
        self._nodes[node_id].state = state


class _Lane:
    """A thread and the worker process it owns."""

    def __init__(self, grid: LocalGrid, number: int, client_app: str, folder: Path, log: Path | None) -> None:
        self._grid = grid
        self._number = number
        self._command = [sys.executable, "-m", "hansa_server.engines.local_worker"]
        self._arguments = [client_app, str(folder)]
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None
        self._sent: object = None  # token of what the worker holds
        self._thread = threading.Thread(target=self._run, name=f"lane-{number}", daemon=True)
        self._stopping = False
        self._holds_room = False  # for the large reply that this lane reads

    def start(self) -> None:
        """Start the process and the thread."""
        self._start_process()
        self._thread.start()

    def stop(self) -> None:
        """Have both end; ``join`` waits for it."""
        self._stopping = True
        if (process := self._process) is not None:
            process.kill()
        self._grid.release_room()

    def join(self) -> None:
        """Wait until both have ended."""
        if self._thread.is_alive():
            self._thread.join(timeout=_JOIN_SECONDS)
        self._end_process()

    def _start_process(self) -> None:
        if self._stopping:
            raise WorkerLostError("The grid is closed.")
        ours, theirs = socket.socketpair()
        with theirs, contextlib.ExitStack() as stack:
            log: IO[bytes] | None = stack.enter_context(self._log.open("ab")) if self._log else None
            self._process = subprocess.Popen(  # noqa: S603 - this interpreter, this package
                [*self._command, str(theirs.fileno()), *self._arguments],
                pass_fds=[theirs.fileno()],
                process_group=0,  # Ctrl-C is for the server, which decides when to stop
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ
                | dict.fromkeys(_THREADS, "1")
                | {"FLWR_TELEMETRY_ENABLED": "0", "PYTHONUNBUFFERED": "1"},
            )
        self._channel, self._sent = ours, None

    def _end_process(self) -> str:
        """Kill what is left of the worker and say how it ended."""
        process, channel = self._process, self._channel
        self._process = self._channel = None
        if channel is not None:
            with contextlib.suppress(OSError):
                channel.shutdown(socket.SHUT_RDWR)
            channel.close()
        if process is None:
            return "ended"
        with contextlib.suppress(subprocess.TimeoutExpired):  # it may be on its way out and know why
            process.wait(timeout=0.5)
        process.kill()
        code = process.wait()
        return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"

    def _run(self) -> None:
        while (job := self._grid.take(self._number)) is not None:
            self._serve(job)
            del job  # it holds the round's parameters, and the next job may be long in coming

    def _serve(self, job: _Job) -> None:
        started = time.monotonic()
        try:
            reply = self._execute(job)
        except WorkerLostError as error:
            reply = _failed(job, ErrorCode.CLIENT_APP_CRASHED, str(error))
        except Exception as error:  # noqa: BLE001 - a lane outlives whatever a worker sends
            self._end_process()
            reason = f"The reply of its worker process cannot be read ({type(error).__name__}){self._see_log()}."
            reply = _failed(job, ErrorCode.CLIENT_APP_CRASHED, reason)
        is_large = self._holds_room and reply.has_content()
        stored = self._grid.deliver(job, reply, self._number, time.monotonic() - started, is_large=is_large)
        if self._holds_room and not (stored and is_large):
            self._grid.release_room()
        self._holds_room = False

    def _execute(self, job: _Job) -> Message:
        """Run one job on the worker.

        Raises:
            WorkerLostError: The worker died, or was ended because the job's time was up.
        """
        if job.expires <= time.monotonic():
            return _failed(job, ErrorCode.MESSAGE_UNAVAILABLE, "Its turn did not come before the deadline.")
        try:
            if self._process is None:
                self._start_process()
            frame = self._converse(job)
        except TimeoutError:
            self._end_process()
            raise WorkerLostError("It did not reply before the deadline; its worker process was ended.") from None
        except (EOFError, OSError):
            raise WorkerLostError(f"Its worker process {self._end_process()}{self._see_log()}.") from None
        return self._reply(job, frame)

    def _converse(self, job: _Job) -> Frame:
        assert self._channel is not None

        def before_arrays(size: int) -> None:
            if size > _LARGE:
                self._grid.make_room(job.expires - time.monotonic())
                self._holds_room = True

        node_id = job.message.metadata.dst_node_id
        self._channel.settimeout(min(job.expires - time.monotonic(), _LONGEST))
        if self._sent is not job.content.token:
            self._sent = job.content.token
            send(self._channel, Kind.CONTENT, job.content.body, job.content.buffers)
        state, buffers = self._grid.state(node_id)
        body = join([metadata_of(job.message), self._grid.context(node_id), state])
        send(self._channel, Kind.TASK, body, buffers)
        return receive(self._channel, before_arrays=before_arrays)

    def _reply(self, job: _Job, frame: Frame) -> Message:
        if frame.kind is Kind.ERROR:
            return _failed(job, ErrorCode.CLIENT_APP_RAISED_EXCEPTION, frame.body.decode(errors="replace"))
        metadata, body, state = part(frame.body)
        reply = bare_message(metadata)
        buffers = iter(frame.buffers)
        if not reply.has_error():
            reply.content = restore(body, buffers)
        self._grid.commit(job.message.metadata.dst_node_id, (state, list(buffers)))
        return reply

    def _see_log(self) -> str:
        return f"; see {self._log}" if self._log else ""


def _failed(job: _Job, code: int, reason: str) -> Message:
    return Message(Error(code=code, reason=reason), reply_to=job.message)
