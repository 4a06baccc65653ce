"""A proxy between a site and the coordinator that does what networks do: cut, stall, slow down, lose (E3)."""

import asyncio
import random
import threading
from dataclasses import dataclass
from typing import Literal

from tests.chaos.relay import Relay, end, reset

_READ = 64 << 10  # bytes
_RETRANSMISSION = 0.2  # seconds until TCP sends a lost segment again (Linux's least)


@dataclass(frozen=True, slots=True, kw_only=True)
class Weather:
    """What the path is like all the time.

    Attributes:
        rate: Bytes a second in each direction of each connection; 0 for no limit.
        piece: Bytes written at a time; 0 for as they come.
        delay: Seconds that each piece takes one way.
        loss: Share of pieces that are lost once, and so come a retransmission later.
    """

    rate: int = 0
    piece: int = 0
    delay: float = 0.0
    loss: float = 0.0


_FAIR = Weather()


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What goes wrong once.

    Attributes:
        kind: ``rst`` and ``fin`` end every connection, ``silence`` holds everything back and ends nothing,
            ``refuse`` ends every connection and closes new ones as soon as they are accepted, ``weather`` changes what
            the path is like.
        after: Bytes that still go up, over all connections from now on, before it happens.
        seconds: How long a silence or the weather lasts.
        connections: How many new connections are closed (``refuse``).
        weather: What the path is like for that time.
    """

    kind: Literal["rst", "fin", "silence", "refuse", "weather"]
    after: int = 0
    seconds: float = 0.0
    connections: int = 0
    weather: Weather = _FAIR


class CuttingProxy(Relay):
    """A relay to one address.

    Args:
        host: Where to.
        port: Where to.
        seed: Of the losses.
    """

    def __init__(self, port: int, *, host: str = "127.0.0.1", seed: int = 0) -> None:
        super().__init__()
        self.up = 0
        self.down = 0
        self.fired = threading.Event()
        """Set when the fault that was armed last has happened."""
        self.healed = threading.Event()
        """Set while nothing is wrong."""
        self.healed.set()
        self._target = (host, port)
        self._rng = random.Random(seed)
        self._fault: Fault | None = None
        self._left = 0
        self._refusals = 0
        self._weather = self._usual = _FAIR
        self._open = asyncio.Event()
        self._open.set()

    def arm(self, fault: Fault) -> None:
        """Let this happen once; where another was armed, it takes its place."""

        async def work() -> None:
            self.fired.clear()
            self.healed.clear()
            self._fault, self._left = fault, fault.after
            if fault.after == 0:
                self._happen()

        self._do(work())

    def set(self, weather: Weather) -> None:
        """Change what the path is like, for open connections too."""

        async def work() -> None:
            self._weather = self._usual = weather

        self._do(work())

    def heal(self) -> None:
        """Nothing is wrong any more."""

        async def work() -> None:
            self._fault, self._refusals, self._usual = None, 0, _FAIR
            self._mend()

        self._do(work())

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pump, unless new connections are refused now."""
        if self._refusals > 0:
            self._refusals -= 1
            if self._refusals == 0:
                self._mend()
            return
        await self.relay(self._target, reader, writer, up=self._pump_up, down=self._pump_down)

    async def _pump_up(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while content := await reader.read(_READ):
            while self._fault is not None and len(content) >= self._left:
                await self._write(writer, content[: self._left])
                self.up += self._left
                content = content[self._left :]
                self._happen()
            if self._fault is not None:
                self._left -= len(content)
            await self._write(writer, content)
            self.up += len(content)
        end(writer)

    async def _pump_down(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while content := await reader.read(_READ):
            await self._write(writer, content)
            self.down += len(content)
        end(writer)

    async def _write(self, writer: asyncio.StreamWriter, content: bytes) -> None:
        start = 0
        while start < len(content):
            await self._open.wait()
            weather = self._weather
            piece = content[start : start + (weather.piece or len(content))]
            if seconds := self._seconds(weather, len(piece)):
                await asyncio.sleep(seconds)
            writer.write(piece)
            await writer.drain()
            if weather.piece:
                await asyncio.sleep(0)  # a segment of its own
            start += len(piece)

    def _seconds(self, weather: Weather, size: int) -> float:
        lost = weather.loss > 0 and self._rng.random() < weather.loss
        return weather.delay + lost * _RETRANSMISSION + (size / weather.rate if weather.rate else 0.0)

    def _happen(self) -> None:
        assert self._fault is not None
        fault, self._fault = self._fault, None
        if fault.kind == "silence":
            self._open.clear()
            self._loop.call_later(fault.seconds, self._mend)
        elif fault.kind == "weather":
            self._weather = fault.weather
            self._loop.call_later(fault.seconds, self._mend)
        elif fault.kind == "fin":
            for writer in tuple(self._writers):
                writer.close()
        else:
            for writer in tuple(self._writers):
                reset(writer)
        if fault.kind == "refuse" and fault.connections:
            self._refusals = fault.connections
        elif fault.kind not in ("silence", "weather"):
            self._mend()
        self.fired.set()

    def _mend(self) -> None:
        self._weather = self._usual
        self._open.set()
        self.healed.set()
