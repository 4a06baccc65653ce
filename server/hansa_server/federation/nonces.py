"""Numbers that are good once: each enrolment and recovery begins with one, so that nothing recorded is good again."""

import secrets
import threading
from collections.abc import Callable
from typing import Final

from hansa_common.errors import PeerRefused
from hansa_common.wire.protocol import Denial

_SECONDS: Final = 300.0
_MOST: Final = 1_000


class Nonces:
    """Those that are open, in memory only.

    Args:
        clock: Unix time in seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._open: dict[str, float] = {}
        self._lock = threading.Lock()

    def draw(self) -> str:
        """Return a new one.

        Raises:
            PeerRefused: Too many are open.
        """
        now = self._clock()
        with self._lock:
            self._open = {nonce: until for nonce, until in self._open.items() if until > now}
            if len(self._open) >= _MOST:
                raise PeerRefused("Too many sites join at once; try again in a minute.", denial=Denial.BUSY)
            nonce = secrets.token_hex(32)
            self._open[nonce] = now + _SECONDS
        return nonce

    def spend(self, nonce: str) -> None:
        """Use one up.

        Raises:
            PeerRefused: It was not drawn, was used, or is too old.
        """
        with self._lock:
            if self._open.pop(nonce, 0.0) <= self._clock():
                raise PeerRefused("The nonce is unknown, used or too old; begin again.", denial=Denial.PROOF)
