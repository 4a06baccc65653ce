"""The coordinator's own calls, over a Unix socket in the federation's folder: for its commands and its studies.

Whoever may open the socket (its owner; the folder is 0700) is the coordinator's operator. No network port offers these.
"""

import os
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import grpc
from pydantic import Field

from hansa_common.errors import HansaError, PeerRefused, Unreachable, UsageError
from hansa_common.roster import Hash
from hansa_common.settings import Model, Strict
from hansa_common.wire.protocol import COORDINATOR, DENIAL_KEY, MAX_CALL, Size, TaskId, dump, load
from hansa_server.federation.calls import aborting
from hansa_server.federation.folder import no_federation

SOCKET: Final = "control.sock"
_OPTIONS: Final = (
    ("grpc.max_receive_message_length", 4 * MAX_CALL),
    ("grpc.max_send_message_length", 4 * MAX_CALL),
    ("grpc.enable_http_proxy", 0),
)
_LONG: Final = 60.0  # seconds
MESSAGE: Final = "message-"  # what the steps of another app begin with: each is asked once

Text = Annotated[str, Field(max_length=10_000)]
Answer = Callable[[Any], Awaitable[Strict]]


class PlanRequest(Strict):
    """``Propose``: enter a study; its plan as JSON."""

    plan: Annotated[str, Field(max_length=8 << 20)]


class StudyRequest(Strict):
    """``Begin``, ``Resume``, ``Stop``: one study, by id or name."""

    study: Text


class FinishRequest(Strict):
    """``Finish``: a study's process says how it ended."""

    study: Text
    state: Literal["completed", "stopped", "failed"]
    reason: Text = ""


class StudyReply(Strict):
    """One study."""

    study: Text
    digest: Hash
    plan: str
    state: Text
    reason: Text
    attempt: int
    sites: tuple[str, ...]
    approved: tuple[str, ...]
    refused: tuple[str, ...]
    needed: int
    proposed_at: float


class StudiesReply(Strict):
    """All studies, the oldest first."""

    studies: tuple[StudyReply, ...]


class PushedTask(Strict):
    """One task; its bytes lie in the exchange folder."""

    task: TaskId
    content: Hash
    size: Size
    max_reply: Size
    seconds: Annotated[float, Field(ge=0)]


class PushRequest(Strict):
    """``Push``: ask sites."""

    study: Text
    tasks: tuple[PushedTask, ...]


class PullRequest(Strict):
    """``Pull``: what came of these tasks; waits for a first one."""

    tasks: tuple[str, ...]
    seconds: Annotated[float, Field(ge=0, le=60)]


class PulledOutcome(Strict):
    """How a task ended: the file of its reply, or why there is none."""

    task: str
    path: str
    size: Size
    failure: str


class PullReply(Strict):
    """Those that have ended."""

    outcomes: tuple[PulledOutcome, ...]


class CloseRequest(Strict):
    """``Close``: nobody waits for these any more; what came of another app's is dropped."""

    tasks: tuple[str, ...]


class Done(Strict):
    """It is done."""


def service(answers: Mapping[str, tuple[type[Strict], Answer]]) -> grpc.GenericRpcHandler:
    """Return the handlers of the socket's calls."""
    return grpc.method_handlers_generic_handler(
        COORDINATOR, {name: _handler(kind, answer) for name, (kind, answer) in answers.items()}
    )


def _handler(kind: type[Strict], answer: Answer) -> "grpc.RpcMethodHandler[bytes, bytes]":
    async def call(content: bytes, context: Any) -> bytes:
        async with aborting(context, lambda _denial: None, own_machine=True):
            return dump(await answer(load(kind, content)))
        raise RuntimeError("abort raises")

    return grpc.unary_unary_rpc_method_handler(call)


@contextmanager
def _reachable(folder: Path) -> Iterator[str]:
    """Yield an address of the folder's socket that is short enough for the system, wherever the folder lies."""
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"unix:/proc/{os.getpid()}/fd/{descriptor}/{SOCKET}"
    finally:
        os.close(descriptor)


def listen(server: Any, folder: Path) -> None:
    """Add the socket to a server.

    Raises:
        UsageError: It cannot be made.
    """
    (folder / SOCKET).unlink(missing_ok=True)
    before = os.umask(0o177)
    try:
        with _reachable(folder) as address:
            server.add_insecure_port(address)
    except (OSError, RuntimeError) as error:
        raise UsageError(f"Cannot listen on {folder / SOCKET}: {error}.", advice="Use a local disk.") from error
    finally:
        os.umask(before)


class Control:
    """A connection to the coordinator's socket.

    Args:
        folder: The federation's.

    Raises:
        Unreachable: No server runs on it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        if not (folder / SOCKET).exists():
            raise _not_running(folder)
        self._descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY)
        self._channel = grpc.insecure_channel(
            f"unix:/proc/{os.getpid()}/fd/{self._descriptor}/{SOCKET}", options=_OPTIONS
        )

    def call(self, method: str, request: Strict, reply: type[Model], *, timeout: float = _LONG) -> Model:
        """Make one call.

        Raises:
            Unreachable: No server runs.
            HansaError: It refused, and says why.
        """
        invoke: Any = self._channel.unary_unary(f"/{COORDINATOR}/{method}")
        try:
            return load(reply, invoke(dump(request), timeout=timeout))
        except grpc.RpcError as error:
            raise _error_of(error, self._folder) from None

    def close(self) -> None:
        """Hang up."""
        self._channel.close()
        os.close(self._descriptor)


def call(folder: Path, method: str, request: Strict, reply: type[Model]) -> Model:
    """Make one call to the server that runs on this folder.

    Raises:
        Unreachable: None does.
        HansaError: It refused, and says why.
    """
    connection = Control(folder)
    try:
        return connection.call(method, request, reply)
    finally:
        connection.close()


def _error_of(error: Any, folder: Path) -> HansaError:
    if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
        return _not_running(folder)
    denial = dict(error.trailing_metadata() or ()).get(DENIAL_KEY, "internal")
    message, _, advice = (error.details() or "").partition("\n")
    if denial == UsageError.code:
        return UsageError(message, advice=advice)
    return PeerRefused(message, denial=str(denial), advice=advice)


def _not_running(folder: Path) -> HansaError:
    if not (folder / "server.toml").is_file():
        return no_federation(folder)
    return Unreachable(
        f"No server runs on {folder}.",
        advice=f"What ran goes on once it is started: hansa server start --folder {folder}",
    )
