"""Downloads in turns: what a transfer holds in memory, a few hold at a time, and a slow one holds nobody up."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Final

_AT_ONCE: Final = 4
_TURN: Final = 1.0  # seconds after which a transfer goes on beside the others' turns
_PATIENCE: Final = 5.0  # seconds to wait for a turn at most; a site gives a silent server up after three times that


class Turns:
    """Lets a few transfers begin at a time.

    Args:
        at_once: How many.
        turn: Seconds that one has the place for itself.
        patience: Seconds after which one goes on without.
    """

    def __init__(self, *, at_once: int = _AT_ONCE, turn: float = _TURN, patience: float = _PATIENCE) -> None:
        self._free = asyncio.Semaphore(at_once)
        self._turn = turn
        self._patience = patience

    @contextlib.asynccontextmanager
    async def wait(self) -> AsyncIterator[None]:
        """Wait for a turn and have it until the end of the block, or of its time."""
        try:
            async with asyncio.timeout(self._patience):
                await self._free.acquire()
        except TimeoutError:
            yield
            return
        over = asyncio.Event()
        timer = asyncio.get_running_loop().call_later(self._turn, self._end, over)
        try:
            yield
        finally:
            timer.cancel()
            self._end(over)

    def _end(self, over: asyncio.Event) -> None:
        """End a turn, once."""
        if not over.is_set():
            over.set()
            self._free.release()
