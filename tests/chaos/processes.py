"""Real processes of a federation, that can be killed and started again, and waiting for what they do."""

import atexit
import functools
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

Result = TypeVar("Result")
HANSA = Path(sys.executable).with_name("hansa")
_REPOSITORY = Path(__file__).parents[2]
_LOOK = 0.02  # seconds between looks
_STOP = 20.0  # seconds that a process told to stop may take


def hansa(
    *arguments: object, seconds: float = 60.0, code: int = 0, environment: Mapping[str, str] | None = None
) -> str:
    """Run one command of the ``hansa`` line to its end, in a process of its own, and return its standard output.

    Raises:
        AssertionError: It ended with another exit code; the text has all that it wrote.
        subprocess.TimeoutExpired: It did not end in time.
    """
    if environment is None:
        return _commands().run(arguments, seconds=seconds, code=code)
    command = [str(HANSA), *map(str, arguments)]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == code, f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


class _Commands:
    """The process that runs commands in forks of itself; see ``command_server``."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._folder = tempfile.TemporaryDirectory(prefix="hansa-commands-")
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "tests.chaos.command_server"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=_REPOSITORY,
            env={**os.environ, "PYTHONPATH": str(_REPOSITORY)},
        )
        atexit.register(self._close)

    def run(self, arguments: Sequence[object], *, seconds: float, code: int) -> str:
        request = {
            "arguments": [str(argument) for argument in arguments],
            "environment": dict(os.environ),
            "folder": str(Path.cwd()),
            "stdout": f"{self._folder.name}/stdout",
            "stderr": f"{self._folder.name}/stderr",
        }
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._lock:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            ready, _, _ = select.select([self._process.stdout], [], [], seconds)
            if not ready:
                self._close()
                _commands.cache_clear()
                raise subprocess.TimeoutExpired(f"hansa {' '.join(request['arguments'])}", seconds)
            done = json.loads(self._process.stdout.readline())
        command = f"hansa {' '.join(done['arguments'])}"
        assert done["code"] == code, f"{command}: exit code {done['code']}\n{done['stdout']}\n{done['stderr']}"
        return str(done["stdout"])

    def _close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._folder.cleanup()


@functools.cache
def _commands() -> _Commands:
    return _Commands()


def wait_until(
    look: Callable[[], Result | None], what: str, *, seconds: float = 30.0, blame: Callable[[], str] = str
) -> Result:
    """Look until there is a result that is neither ``None`` nor ``False``.

    Args:
        look: Returns it; an ``OSError`` means that it is not there yet.
        what: What is waited for, for the message.
        seconds: How long at most.
        blame: Asked for what went wrong, for the message; may itself raise to give up early.

    Raises:
        AssertionError: It took too long.
    """
    until = time.monotonic() + seconds
    while True:
        try:
            if (result := look()) is not None and result is not False:
                return result
        except OSError:
            pass
        reason = blame()
        assert time.monotonic() < until, f"waited {seconds:g} s for {what}. {reason}"
        time.sleep(_LOOK)


class Process:
    """One long-running ``hansa`` command.

    Args:
        arguments: Behind ``hansa``.
        log: File that gets what it writes, from all its starts.
        environment: Beside this process's own.
        program: Instead of ``hansa``.
    """

    def __init__(
        self,
        *arguments: object,
        log: Path,
        environment: Mapping[str, str] | None = None,
        program: str | Path = HANSA,
    ) -> None:
        self.environment = dict(environment or {})
        self.log = log
        self.starts = 0
        self._command = [str(program), *map(str, arguments)]
        self._running: subprocess.Popen[bytes] | None = None
        self._groups: list[int] = []

    @property
    def pid(self) -> int:
        assert self._running is not None, "not started"
        return self._running.pid

    @property
    def is_running(self) -> bool:
        return self._running is not None and self._running.poll() is None

    def start(self, **environment: str) -> None:
        """Start it; ``environment`` is for this start only, for instance fail points."""
        assert not self.is_running
        with self.log.open("ab") as log:
            self._running = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self.environment, **environment},
                start_new_session=True,
            )
        self._groups.append(self._running.pid)
        self.starts += 1

    def kill(self) -> None:
        """Kill the process itself by SIGKILL, as a crash does; what it started is left to notice by itself."""
        self._signal(signal.SIGKILL)
        self.wait()

    def freeze(self) -> None:
        """Stop its clock."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def stop(self) -> int:
        """Tell it to stop, and return its exit code."""
        self._signal(signal.SIGTERM)
        return self.wait()

    def wait(self, seconds: float = _STOP) -> int:
        """Wait for its end and return its exit code; -9 is SIGKILL.

        Raises:
            subprocess.TimeoutExpired: It goes on.
        """
        assert self._running is not None, "not started"
        return self._running.wait(seconds)

    def check(self) -> str:
        """Return what it last wrote.

        Raises:
            AssertionError: It has ended.
        """
        written = self.log.read_text(errors="replace")[-3_000:] if self.log.exists() else ""
        assert self.is_running, f"{' '.join(self._command)} has ended:\n{written}"
        return written

    def close(self) -> None:
        """End it and everything that any of its starts started."""
        for group in self._groups:
            try:
                os.killpg(group, signal.SIGKILL)
            except ProcessLookupError:
                continue
        if self._running is not None:
            self._running.wait(_STOP)

    def _signal(self, number: signal.Signals) -> None:
        assert self._running is not None, "not started"
        self._running.send_signal(number)
