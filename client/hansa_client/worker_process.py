"""The agent's half of the worker: starts it, gives it one task at a time, and replaces it when it does not behave.

A worker that hangs, grows beyond its limit, dies or sends nonsense is killed; its task fails by a typed error, and the
next task finds a new worker with its study open again.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Final

from hansa_client.confinement import Confinement
from hansa_client.settings import SiteSettings
from hansa_client.site_state import Kept, State
from hansa_client.worker_channel import receive, send
from hansa_client.worker_state import apart, kept_of, with_state
from hansa_common import errors
from hansa_common.errors import HansaError, MessageError, TaskRefused, TrainingError, TrainingOutOfMemory, WorkerLost
from hansa_common.messages import Envelope, Message, decode, encode
from hansa_common.metrics import CountsKind
from hansa_common.plan import StudyPlan
from hansa_common.simulation_plan import SourcePlan

_START_SECONDS: Final = 60.0
_LOOK: Final = 0.5  # seconds between looks at the worker's memory
_MOST_LOG: Final = 10 << 20  # bytes
_BESIDE_MODEL: Final = 64 << 20  # bytes of a reply that are not the model: counts, an app's state
_THREADS: Final = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_ERRORS: Final = {
    kind.code: kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, HansaError) and kind.__init__ is HansaError.__init__
}


class WorkerProcess:
    """One warm worker.

    Args:
        folder: The site's; the worker may write into ``scratch`` below it.
        settings: The site's.
        warm: Load torch at once, before the first study is opened.
    """

    def __init__(self, folder: Path, settings: SiteSettings, *, warm: bool = True) -> None:
        self._folder = folder
        self._settings = settings
        self._warm = warm
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None
        self._confinement: Confinement | None = None
        self._opened: dict[str, Any] | None = None
        self._copies = 1  # of the model in the largest reply
        self._is_open = False
        self._why_killed: HansaError | None = None
        self._busy = threading.Lock()

    def start(self) -> None:
        """Start the process if there is none; it loads torch while this one goes on.

        Raises:
            WorkerLost: It does not start.
        """
        if self._process is not None and self._process.poll() is None and self._why_killed is None:
            return
        self._end()
        scratch = self._folder / "scratch"
        scratch.mkdir(mode=0o700, exist_ok=True)
        limits = self._settings.limits
        options = {
            "network": self._settings.worker.network,
            "file_mb": limits.max_file_mb,
            "files": limits.worker_files,
            "processes": limits.worker_processes,
            "warm": self._warm,
        }
        ours, theirs = socket.socketpair()
        log = self._folder / "worker.log"
        if log.exists() and log.stat().st_size > _MOST_LOG:
            log.replace(log.with_suffix(".log.1"))
        with theirs, open(log, "ab", opener=_private) as output:
            self._process = subprocess.Popen(  # noqa: S603 - this interpreter, this package
                [sys.executable, "-m", "hansa_client.worker", str(theirs.fileno()), str(scratch), json.dumps(options)],
                pass_fds=[theirs.fileno()],
                process_group=0,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=_environment(scratch),
            )
        self._channel, self._is_open, self._why_killed = ours, False, None
        ours.settimeout(_START_SECONDS)
        try:
            head, _ = receive(ours)
            self._confinement = Confinement(network=head["network"], files=head["files"])
        except (OSError, EOFError, KeyError, MessageError):
            self._end()
            raise WorkerLost("The worker process does not start.", advice=f"See {log}.") from None

    def open(self, plan: StudyPlan, *, name: str, index: int, source: SourcePlan, timeout: float) -> int:
        """Load a study's data and model; return ``P``.

        Raises:
            WorkerLost: The worker did not survive it.
            TaskRefused: The model is larger than this site's limit.
            HansaError: What the worker says.
        """
        self._copies = plan.carried + (1 if plan.keeps_state or plan.personalisation is not None else 0)
        self._opened = {
            "do": "open",
            "plan": plan.model_dump_json(),
            "name": name,
            "index": index,
            "source": source.model_dump_json(),
            "device": self._settings.device,
        }
        with self._busy:
            self._is_open = False
            return self._ensure_open(timeout)

    def do(self, message: Message, *, kind: CountsKind, timeout: float) -> Message:
        """Do one task of a study in which this site keeps nothing; see ``do_with_state``."""
        return self.do_with_state(message, {}, kind=kind, timeout=timeout)[0]

    def do_with_state(
        self, message: Message, state: State, *, kind: CountsKind, timeout: float
    ) -> tuple[Message, Kept]:
        """Do one task of the open study; if the worker dies of itself, a new one tries once more.

        Raises:
            WorkerLost: The worker did not survive it.
            MessageError: It answered with something that is no answer.
            HansaError: What the worker says.
        """
        task = with_state(encode(message), state)
        with self._busy:
            try:
                head, envelope = self._do(task, timeout)
            except WorkerLost:
                if self._why_killed is not None:  # it was us
                    raise
                head, envelope = self._do(task, timeout)
        if envelope is None:
            raise WorkerLost("The worker sent no reply.")
        bare, vectors = apart(envelope)
        return decode(bare, kind=kind), kept_of(head, vectors)

    def _do(self, task: Envelope, timeout: float) -> tuple[dict[str, Any], Envelope | None]:
        self._ensure_open(timeout)
        return self._converse({"do": "task"}, task, timeout)

    def flower(self, reference: str, envelope: Envelope, *, timeout: float) -> Envelope:
        """Run another app's ClientApp.

        Raises:
            WorkerLost: The worker did not survive it.
            HansaError: What the worker says.
        """
        with self._busy:
            self.start()
            _head, reply = self._converse({"do": "flower", "app": reference}, envelope, timeout)
        if reply is None or set(reply.arrays) != {"message", "state"}:
            raise WorkerLost("The worker sent no reply.")
        return reply

    def interrupt(self) -> None:
        """End what the worker does, from another thread; its caller gets ``WorkerLost``."""
        self._kill(WorkerLost("The work was interrupted."))

    def close(self) -> None:
        """End the worker."""
        self._kill(WorkerLost("The agent stops."))
        with self._busy:
            self._end()

    def describe(self) -> str:
        """Say how the worker is, for the site's operator."""
        if self._process is None or self._confinement is None:
            return "not started"
        return (
            f"pid {self._process.pid}, {_resident(self._process.pid) // 1_000_000} MB, {self._confinement.describe()}"
        )

    def _ensure_open(self, timeout: float) -> int:
        if self._opened is None:
            raise WorkerLost("No study is open at this site.")
        self.start()
        if self._is_open:
            return 0
        head, _ = self._converse(self._opened, None, timeout)
        parameters = head.get("parameters")
        if not isinstance(parameters, int) or parameters < 1:
            self._kill(WorkerLost("The worker answered with something that is no answer."))
            raise self._lost()
        limit = self._settings.limits.max_model_mb
        if 4 * parameters > limit * 1_000_000:
            raise TaskRefused(
                f"The model has {parameters:,} parameters; this site's limit is {limit} MB.",
                advice="Raise limits.max_model_mb in site.toml, or do not approve the plan.",
            )
        self._is_open = True
        return parameters

    def _converse(
        self, head: dict[str, Any], envelope: Envelope | None, timeout: float
    ) -> tuple[dict[str, Any], Envelope | None]:
        """Send a frame and wait for the answer, with an eye on the worker's memory."""
        channel = self._channel
        assert channel is not None
        done = threading.Event()
        limit = min(timeout, self._settings.limits.task_seconds)
        watcher = threading.Thread(target=self._watch, args=(done, time.monotonic() + limit), daemon=True)
        watcher.start()
        try:
            channel.settimeout(None)
            send(channel, head, envelope)
            most = self._settings.limits.max_model_mb * 1_000_000 * self._copies + _BESIDE_MODEL
            answer, reply = receive(channel, most=most)
        except MessageError:
            self._kill(WorkerLost("The worker answered with something that is no answer, or too large."))
            raise self._lost() from None
        except (OSError, EOFError):
            raise self._lost() from None
        finally:
            done.set()
            watcher.join()
        if "error" in answer:
            kind = _ERRORS.get(str(answer["error"]), TrainingError)
            raise kind(str(answer.get("message", ""))[:2_000], advice=str(answer.get("advice", ""))[:2_000])
        return answer, reply

    def _watch(self, done: threading.Event, deadline: float) -> None:
        """Kill the worker when its time is up or its memory is; see that it is gone when a child holds its channel."""
        most = self._settings.limits.memory_mb * 1_000_000
        while not done.wait(min(_LOOK, max(0.0, deadline - time.monotonic()))):
            process = self._process
            if process is None:
                return
            if process.poll() is not None:
                self._hang_up()
                return
            if time.monotonic() >= deadline:
                self._kill(WorkerLost("The task took longer than it may; its worker was ended."))
                return
            if most and _resident(process.pid) > most:
                self._kill(TrainingOutOfMemory("The worker took more memory than limits.memory_mb allows."))
                return

    def _kill(self, why: HansaError) -> None:
        process = self._process
        if process is not None and process.poll() is None:
            self._why_killed = self._why_killed or why
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            self._hang_up()

    def _hang_up(self) -> None:
        """End the conversation also where a process that left the worker's group still holds the other end."""
        channel = self._channel
        if channel is not None:
            with contextlib.suppress(OSError):
                channel.shutdown(socket.SHUT_RDWR)

    def _lost(self) -> HansaError:
        why = self._why_killed
        ended = self._end()
        return why or WorkerLost(f"The worker process {ended}.", advice=f"See {self._folder / 'worker.log'}.")

    def _end(self) -> str:
        """Take away what is left of the worker, its children included, and say how it ended."""
        process, channel = self._process, self._channel
        self._process = self._channel = None
        self._is_open = False
        if channel is not None:
            channel.close()
        if process is None:
            return "ended"
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        code = process.wait()
        return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _environment(scratch: Path) -> dict[str, str]:
    """Return what the worker may know of the agent's environment: no passphrases, no proxies."""
    kept = (
        "PATH",
        "HOME",
        "LANG",
        "LC_ALL",
        "LD_LIBRARY_PATH",
        "CUDA_VISIBLE_DEVICES",
        "PYTHONPATH",
        "HANSA_FAIL_POINTS",
    )
    return (
        {name: os.environ[name] for name in kept if name in os.environ}
        | dict.fromkeys(_THREADS, "1")
        | {
            "FLWR_TELEMETRY_ENABLED": "0",
            "PYTHONUNBUFFERED": "1",
            "TMPDIR": str(scratch),
            "XDG_CACHE_HOME": str(scratch),
        }
    )


def _resident(pid: int) -> int:
    """Return a process's resident memory in bytes; 0 where it is gone."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE
    except (OSError, IndexError, ValueError):
        return 0
