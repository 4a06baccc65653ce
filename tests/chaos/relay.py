"""A TCP relay in a thread of its own: what both proxies are."""

import asyncio
import contextlib
import socket
import struct
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from typing import Any, Self, TypeVar

Result = TypeVar("Result")
_LINGER_0 = struct.pack("ii", 1, 0)  # close() sends RST and forgets what was not sent
_STARTED = 10.0  # seconds


class Relay(ABC):
    """Listens on a free port of the loopback as long as the block lasts; its methods are called from any thread."""

    def __init__(self) -> None:
        self.port = 0
        self.accepted = 0
        self._loop = asyncio.new_event_loop()
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, name=type(self).__name__, daemon=True)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._thread.start()
        self._do(self._listen())
        return self

    def __exit__(self, *_error: object) -> None:
        self._do(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_STARTED)
        self._loop.close()

    def _do(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Run in the relay's thread and wait for it."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_STARTED)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        self._reset_all()
        await self._server.wait_closed()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        self._writers.add(writer)
        try:
            await self.serve(reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, asyncio.CancelledError):
            pass  # a broken connection is what this is for
        finally:
            self._writers.discard(writer)
            writer.close()

    @abstractmethod
    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Do what is to be done with one connection; it is closed behind this."""

    async def relay(
        self,
        target: tuple[str, int],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        up: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]],
        down: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]],
    ) -> None:
        """Connect to ``target`` and pump both ways until both have ended, or one is broken."""
        far_reader, far_writer = await asyncio.open_connection(*target)
        self._writers.add(far_writer)
        pumps = [asyncio.ensure_future(up(reader, far_writer)), asyncio.ensure_future(down(far_reader, writer))]
        try:
            await asyncio.gather(*pumps)
        finally:
            for pump in pumps:
                pump.cancel()
            self._writers.discard(far_writer)
            far_writer.close()

    def _reset_all(self) -> None:
        for writer in tuple(self._writers):
            reset(writer)


def reset(writer: asyncio.StreamWriter) -> None:
    """End a connection by RST."""
    with contextlib.suppress(OSError):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_0)
    writer.transport.abort()


def end(writer: asyncio.StreamWriter) -> None:
    """Say by FIN that there is no more."""
    with contextlib.suppress(OSError, RuntimeError):
        writer.write_eof()
