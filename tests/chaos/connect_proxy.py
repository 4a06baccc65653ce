"""A minimal HTTP CONNECT proxy (RFC 9110, section 9.3.6), as institutions put before their networks."""

import asyncio
import re
from collections.abc import Collection

from tests.chaos.relay import Relay, end

_READ = 64 << 10  # bytes
_REQUEST = re.compile(rb"CONNECT ([^\s:]+|\[[0-9a-f:]+\]):([0-9]{1,5}) HTTP/1\.[01]\r\n", re.IGNORECASE)


class ConnectProxy(Relay):
    """Lets connections through to some ports only.

    Args:
        ports: That may be connected to; all where left out.
    """

    def __init__(self, ports: Collection[int] | None = None) -> None:
        super().__init__()
        self.targets: list[tuple[str, int]] = []
        """Where connections went, in their order."""
        self.refused = 0
        self.bytes = 0
        self._ports = ports

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Read one request, answer it, and pump."""
        found = _REQUEST.match(await reader.readuntil(b"\r\n\r\n"))
        if found is None:
            await self._refuse(writer, b"405 Method Not Allowed")
            return
        target = (found[1].decode().strip("[]"), int(found[2]))
        if self._ports is not None and target[1] not in self._ports:
            await self._refuse(writer, b"403 Forbidden")
            return
        self.targets.append(target)
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await self.relay(target, reader, writer, up=self._pump, down=self._pump)

    async def _refuse(self, writer: asyncio.StreamWriter, status: bytes) -> None:
        self.refused += 1
        writer.write(b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while content := await reader.read(_READ):
            self.bytes += len(content)
            writer.write(content)
            await writer.drain()
        end(writer)
