"""The live sessions: one for each site that is attached, and the calls that belong to it.

All of this runs on the event loop of the server's process; nothing here is durable, and nothing durable is here.
"""

import asyncio
import contextlib
import hmac
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from hansa_common.errors import PeerRefused
from hansa_common.wire.protocol import AnyNotice, Denial

_MOST_NOTICES = 10_000  # waiting in one session; a site that does not read them is cut off


@dataclass(slots=True, eq=False)
class Session:
    """One attached site.

    Attributes:
        site: Its name.
        token: What its calls must show.
        notices: To be sent.
        ended: Why it is over, once it is.
        since: Unix time in seconds.
    """

    site: str
    token: str = field(repr=False)
    notices: asyncio.Queue[AnyNotice | None] = field(default_factory=lambda: asyncio.Queue(_MOST_NOTICES), repr=False)
    ended: Denial | None = None
    since: float = field(default_factory=time.time)
    calls: set["asyncio.Task[object]"] = field(default_factory=set, repr=False)

    def tell(self, notice: AnyNotice) -> None:
        """Queue a notice."""
        if self.ended is None:
            try:
                self.notices.put_nowait(notice)
            except asyncio.QueueFull:
                self.end(Denial.BUSY)

    def end(self, reason: Denial) -> None:
        """Cut it off, with every call that is under way."""
        if self.ended is not None:
            return
        self.ended = reason
        with contextlib.suppress(asyncio.QueueFull):
            self.notices.put_nowait(None)
        for call in self.calls:
            call.cancel()


class Sessions:
    """The sessions by site; a site has at most one."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._live: dict[str, Session] = {}

    def open(self, site: str) -> Session:
        """Begin a session; one that the site had before is over.

        Raises:
            PeerRefused: There are too many.
        """
        if (before := self._live.pop(site, None)) is not None:
            before.end(Denial.SUPERSEDED)
        if len(self._live) >= self._most:
            raise PeerRefused(f"The server takes {self._most} sessions at most.", denial=Denial.BUSY)
        session = Session(site, secrets.token_hex(32))
        self._live[site] = session
        return session

    def close(self, session: Session) -> bool:
        """Forget a session whose stream ended; tell whether the site has none now."""
        session.end(Denial.NO_SESSION)
        if self._live.get(session.site) is session:
            del self._live[session.site]
        return session.site not in self._live

    def end(self, site: str, reason: Denial) -> None:
        """Cut off a site."""
        if (session := self._live.pop(site, None)) is not None:
            session.end(reason)

    def end_all(self) -> None:
        """Cut off everybody: the server stops."""
        for site in list(self._live):
            self.end(site, Denial.NO_SESSION)

    def tell(self, site: str, notice: AnyNotice) -> None:
        """Queue a notice for a site, if it is attached."""
        if (session := self._live.get(site)) is not None:
            session.tell(notice)

    @property
    def online(self) -> dict[str, float]:
        """Since when each attached site is, as Unix time in seconds."""
        return {site: session.since for site, session in self._live.items()}

    def check(self, site: str, token: str) -> Session:
        """Return the session that a call belongs to.

        Raises:
            PeerRefused: The site has none, or another.
        """
        session = self._live.get(site)
        if session is None:
            raise PeerRefused("Attach first.", denial=Denial.NO_SESSION)
        if not hmac.compare_digest(session.token, token):
            raise PeerRefused("A later session of this site took over.", denial=Denial.SUPERSEDED)
        return session

    @contextlib.contextmanager
    def call(self, site: str, token: str) -> Iterator[Session]:
        """Run a call of a session that is cut off when the session is.

        Raises:
            PeerRefused: The site has no such session, or it ended meanwhile.
        """
        session = self.check(site, token)
        task = asyncio.current_task()
        assert task is not None
        session.calls.add(task)
        try:
            yield session
        except asyncio.CancelledError:
            if session.ended is None:
                raise
            raise PeerRefused("The session has ended.", denial=session.ended) from None
        finally:
            session.calls.discard(task)
