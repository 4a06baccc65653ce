"""The site's one connection: outbound only, attached again whenever it is lost, and its calls.

Every attempt is a channel of its own, so nothing of a broken one is left behind. A counter on the site's disk goes up
with each attempt: whoever shows a lower one than the coordinator has seen holds a copy of this site's keys.
"""

import asyncio
import contextlib
import hashlib
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import grpc
import structlog

from hansa_client.folder import SiteFolder
from hansa_common import __version__
from hansa_common.display import printable
from hansa_common.errors import HansaError, IdentityError, MessageError, PeerRefused, StorageError, Unreachable
from hansa_common.failpoints import reach
from hansa_common.settings import Model, Strict
from hansa_common.signing import sign
from hansa_common.wire import tls
from hansa_common.wire.protocol import (
    CHUNK,
    DENIAL_KEY,
    FEDERATION,
    PROTOCOLS,
    AnyNotice,
    AttachRequest,
    Denial,
    DownloadRequest,
    RosterNotice,
    StoredReply,
    StoredRequest,
    TaskId,
    TaskNotice,
    UploadHeader,
    Welcome,
    dump,
    load,
    load_notice,
)

_FIRST_NOTICE: Final = 10.0  # seconds
_CALL: Final = 20.0  # seconds
_CHUNK_SECONDS: Final = 20.0  # seconds without progress until a transfer is given up and resumed
_LIVES: Final = 3  # heartbeats that may be missed
_BACKOFF: Final = (0.05, 1.0)  # seconds: first and longest wait before the next attempt
_REFUSED_WAIT: Final = 5.0  # seconds before the next attempt where the coordinator refused this site
_SESSION_OVER: Final = (Denial.SUPERSEDED, Denial.NO_SESSION)  # the site itself is not refused

_log = structlog.get_logger()
OnNotice = Callable[[AnyNotice], Awaitable[None]]


class Connection:
    """Keeps this site attached.

    Args:
        folder: The site's.
        on_notice: Told everything that the coordinator says, in order.
        on_refused: Told what the coordinator said that this site does not accept; the session ends.
        protocols: Versions that this site speaks.
    """

    def __init__(
        self,
        folder: SiteFolder,
        on_notice: OnNotice,
        on_refused: Callable[[HansaError], None],
        *,
        protocols: tuple[int, ...] = PROTOCOLS,
    ) -> None:
        self.session: str = ""
        self.problem = "not connected yet"
        self.clock_offset = 0.0  # seconds by which the coordinator's clock is ahead
        self.attached = asyncio.Event()
        self._folder = folder
        self._membership = folder.membership()
        self._settings = folder.settings()
        self._on_notice = on_notice
        self._on_refused = on_refused
        self._protocols = protocols
        self._channel: Any = None
        self._renewed = False
        self._unknown = False  # a coordinator that was restored from a backup does not know later certificates
        self._renewal = 0.0  # Unix time in seconds at which the certificate in use is to be renewed
        self._heard = 0.0  # on the loop's clock
        self._uploads: set[asyncio.Timeout] = set()

    async def run(self) -> None:
        """Attach, again and again, until cancelled."""
        clock = asyncio.get_running_loop().time
        wait = _BACKOFF[0]
        while True:
            started = clock()
            try:
                await self._attach()
            except PeerRefused as error:
                self.problem = str(error)
                self._unknown |= error.denial == Denial.UNKNOWN
                wait = min(wait * 2, _BACKOFF[1]) if error.denial in _SESSION_OVER else _REFUSED_WAIT
                _log.warning("refused", denial=error.denial)
            except HansaError as error:
                self.problem = str(error)
                wait = min(wait * 2, _BACKOFF[1])
                _log.info("not connected", problem=error.message)
                if isinstance(error, MessageError | IdentityError):
                    self._on_refused(error)
            finally:
                if self.session and clock() - started > _BACKOFF[1]:  # it was a good one
                    wait = _BACKOFF[0]
                self.session = ""
                self.attached.clear()
            await asyncio.sleep(wait * random.uniform(0.5, 1.0))  # noqa: S311 - only spreads attempts in time

    async def _attach(self) -> None:
        """Hold one session to its end.

        Raises:
            PeerRefused: The coordinator ended it, and says why.
            Unreachable: The network did.
        """
        await self._ensure_certificate()
        request = self._request(self._folder.next_counter())
        async with self._open_channel() as channel:
            self._channel = channel
            with _grpc_errors(self._membership.address):
                stream = channel.unary_stream(f"/{FEDERATION}/Attach")(dump(request))
                try:
                    await self._read(stream)
                finally:
                    self._end_uploads()

    @contextlib.asynccontextmanager
    async def _upload_limit(self) -> AsyncIterator[asyncio.Timeout]:
        """Limit an upload's time, and end it with its session: gRPC lets a write on a broken channel wait for ever."""
        async with asyncio.timeout(_CHUNK_SECONDS) as limit:
            self._uploads.add(limit)
            try:
                yield limit
            finally:
                self._uploads.discard(limit)

    def _end_uploads(self) -> None:
        for limit in self._uploads:
            if not limit.expired():
                limit.reschedule(0.0)

    async def _read(self, stream: Any) -> None:
        silence = _FIRST_NOTICE
        while True:
            content = await self._next(stream, silence)
            if content is grpc.aio.EOF:
                raise Unreachable("The coordinator closed the connection.")
            notice = load_notice(content)
            if isinstance(notice, Welcome):
                if self.session or notice.protocol not in self._protocols:
                    raise MessageError("A welcome came twice, or with a protocol that this site did not offer.")
                silence = _LIVES * notice.heartbeat_seconds
                self.session, self.problem = notice.session, ""
                self.clock_offset = notice.server_time - time.time()
                self.attached.set()
                _log.info("attached", protocol=notice.protocol, version=notice.version)
            elif not self.session:
                raise MessageError("The first notice is no welcome.")
            await self._on_notice(notice)
            if isinstance(notice, RosterNotice):
                self._renewal = self._due()
            if self._renewed:
                self._renewed = False
                raise PeerRefused("Connecting anew with the new certificate.", denial="superseded")
            await self._renew_when_due()

    async def _next(self, stream: Any, silence: float) -> Any:
        """Return the next notice; bytes of a transfer are news too, for they may hold notices up."""
        clock = asyncio.get_running_loop().time
        self._heard = clock()
        reading = asyncio.ensure_future(stream.read())
        try:
            while not reading.done():
                left = self._heard + silence - clock()
                if left <= 0:
                    raise Unreachable(f"The coordinator was silent for {silence:g} s.")
                await asyncio.wait([reading], timeout=left)
            return reading.result()
        finally:
            if not reading.done():
                stream.cancel()
                reading.cancel()

    def _request(self, counter: int) -> AttachRequest:
        membership = self._membership
        statement = {"federation": membership.federation, "site": membership.site, "counter": counter}
        return AttachRequest(
            protocols=self._protocols,
            version=__version__,
            counter=counter,
            roster_version=self._folder.roster().roster.version,
            signature=sign(self._folder.keys().signing, "session", statement),
        )

    def _open_channel(self) -> Any:
        keys = self._folder.keys()
        credentials = tls.client_credentials(self._folder.authorities(), self._folder.certificate(), keys.tls_pem())
        return grpc.aio.secure_channel(
            self._membership.address, credentials, options=tls.client_options(proxy=self._settings.proxy)
        )

    async def _ensure_certificate(self) -> None:
        """Renew by node key a certificate that expired, is unknown to the server, or of a retired authority."""
        from hansa_client.enrolment import recover  # noqa: PLC0415 - rarely needed

        _, end = self._folder.certificate_times()
        if time.time() >= end or self._unknown or self._folder.issuer() is None:
            await asyncio.to_thread(recover, self._folder)
            self._unknown = False
            _log.info("certificate recovered")
        self._renewal = self._due()

    def _due(self) -> float:
        """Return when to renew: at half of the certificate's time, or at once where a newer authority certifies."""
        start, end = self._folder.certificate_times()
        is_newest = self._folder.issuer() == self._folder.roster().roster.coordinator.certificate_authorities[-1]
        return (start + end) / 2 if is_newest else 0.0

    async def _renew_when_due(self) -> None:
        if time.time() < self._renewal:
            return
        from hansa_common.wire.protocol import CertificateReply, RenewRequest  # noqa: PLC0415

        request = RenewRequest(
            session=self._token(),
            certificate_request=self._folder.keys().certificate_request(),
            roster_version=self._folder.roster().roster.version,
        )
        self._folder.save_certificate(await self.call("Renew", request, CertificateReply))
        self._renewed = True
        _log.info("certificate renewed")

    async def drop(self) -> None:
        """End the session as a broken network would; ``run`` attaches anew."""
        if self._channel is not None:
            await self._channel.close()

    async def call(self, method: str, request: Strict, reply: type[Model]) -> Model:
        """Make one call.

        Raises:
            PeerRefused, Unreachable: As the coordinator or the network has it.
        """
        with _grpc_errors(self._membership.address):
            content = await self._live().unary_unary(f"/{FEDERATION}/{method}")(dump(request), timeout=_CALL)
        return load(reply, content)

    def _live(self) -> Any:
        self._token()
        return self._channel

    def _token(self) -> str:
        if not self.session or self._channel is None:
            raise Unreachable("Not attached.")
        return self.session

    async def download(self, notice: TaskNotice, path: Path) -> None:
        """Fetch a task's bytes into a file, from where an earlier try ended.

        Raises:
            PeerRefused, Unreachable: As the coordinator or the network has it; what has come stays in the file.
            IdentityError: The bytes are not those that were announced.
            StorageError: The disk is full or fails.
        """
        while True:
            offset = _have(path, notice.size)
            if offset < notice.size or not notice.size:  # a task of no bytes is a file too
                await self._fetch(notice, path, offset)
            if await asyncio.to_thread(_digest, path) == notice.sha256:
                return
            _remove(path)
            if not offset:
                raise IdentityError("A task's bytes are not those that were announced.")

    async def _fetch(self, notice: TaskNotice, path: Path, offset: int) -> None:
        request = DownloadRequest(session=self._token(), task=notice.task, offset=offset)
        with _grpc_errors(self._membership.address):
            stream = self._live().unary_stream(f"/{FEDERATION}/Download")(dump(request))
            try:
                with path.open("ab") as file:
                    while (chunk := await asyncio.wait_for(stream.read(), _CHUNK_SECONDS)) is not grpc.aio.EOF:
                        offset += len(chunk)
                        self._heard = asyncio.get_running_loop().time()
                        if len(chunk) > CHUNK or offset > notice.size:
                            raise MessageError("A task is longer than announced.")
                        file.write(chunk)
            except TimeoutError:
                raise Unreachable(f"No bytes came for {_CHUNK_SECONDS:.0f} s.") from None
            except OSError as error:
                raise StorageError(f"Cannot write {path}: {error.strerror}.", advice="Free space.") from error
            finally:
                stream.cancel()

    async def upload(self, task: TaskId, path: Path, size: int, sha256: str, *, resume: bool) -> StoredReply:
        """Send a reply; returns once the coordinator has it on its disk.

        Args:
            task: What it is the reply to.
            path: Its bytes.
            size: How many.
            sha256: Their digest.
            resume: Ask first how much of it is there.

        Raises:
            PeerRefused, Unreachable: As the coordinator or the network has it.
        """
        offset = 0
        if resume:
            stored = await self.call(
                "Stored", StoredRequest(session=self._token(), task=task, size=size, sha256=sha256), StoredReply
            )
            if stored.complete:
                return stored
            offset = stored.stored
        header = UploadHeader(session=self._token(), task=task, size=size, sha256=sha256, offset=offset)
        with _grpc_errors(self._membership.address):
            call = self._live().stream_unary(f"/{FEDERATION}/Upload")()
            try:
                async with self._upload_limit() as limit:
                    await call.write(dump(header))
                    async for chunk in _chunks(path, offset):
                        await call.write(chunk)
                        self._heard = asyncio.get_running_loop().time()
                        limit.reschedule(self._heard + _CHUNK_SECONDS)
                    reach("site.send")
                    await call.done_writing()
                    content = await call
            except TimeoutError:
                raise Unreachable("The coordinator took no bytes for too long, or the session ended.") from None
            except asyncio.InvalidStateError:  # the other end answered in the middle: with a refusal
                content = await call
            finally:
                call.cancel()
        return load(StoredReply, content)


async def _chunks(path: Path, offset: int) -> AsyncIterator[bytes]:
    with path.open("rb") as file:
        file.seek(offset)
        while chunk := await asyncio.to_thread(file.read, CHUNK):
            yield chunk


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)


def _have(path: Path, most: int) -> int:
    """Return how many bytes a file has; one with more than there can be is deleted."""
    size = path.stat().st_size if path.exists() else 0
    if size > most:
        path.unlink()
        return 0
    return size


def _digest(path: Path) -> str:
    """Return a file's SHA-256; of one that is not there, that of nothing."""
    if not path.exists():
        return hashlib.sha256().hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def _grpc_errors(address: str) -> Any:
    """Turn what gRPC raises into this system's errors; reasons are read from codes, never from text."""
    try:
        yield
    except grpc.aio.AioRpcError as error:
        metadata = error.trailing_metadata() or ()
        denial = next((str(value) for key, value in metadata if key == DENIAL_KEY), "")
        if denial:
            message, _, advice = (error.details() or "").partition("\n")
            raise PeerRefused(
                printable(message[:2_000]), denial=printable(denial[:100]), advice=printable(advice[:2_000])
            ) from None
        raise Unreachable(
            f"{address} cannot be reached: {error.code().name.lower()}.",
            advice="It is tried again by itself; 'hansa site check' finds the cause.",
        ) from None
    except (asyncio.InvalidStateError, grpc.aio.UsageError):  # the second: a call on a channel that was just closed
        raise Unreachable(f"The connection to {address} ended.") from None
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():  # it is this task that was told to stop, and not the call
            raise
        raise Unreachable(f"The connection to {address} ended.") from None
