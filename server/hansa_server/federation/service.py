"""The Federation service: sessions, tasks down, replies up; every call is authorised anew.

A site's certificate got it through TLS; ``Membership.authorise`` decides on each call whether it is still a member with
these keys. Bulk data flows only within a session, so a copied key that attaches cuts off, or is cut off by, the site.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import grpc

from hansa_common import __version__
from hansa_common.errors import MessageError, PeerRefused
from hansa_common.failpoints import reach
from hansa_common.settings import Model
from hansa_common.wire.protocol import (
    CHUNK,
    FEDERATION,
    PROTOCOLS,
    AnyNotice,
    AttachRequest,
    DecideRequest,
    Denial,
    DownloadRequest,
    Empty,
    Heartbeat,
    LeaveRequest,
    ProposalsReply,
    RenewRequest,
    RosterNotice,
    StoredReply,
    StoredRequest,
    UploadHeader,
    Welcome,
    agree,
    dump,
    load,
)
from hansa_server.federation.calls import Rates, aborting
from hansa_server.federation.hub import Hub
from hansa_server.federation.sessions import Session
from hansa_server.federation.tasks import Incoming
from hansa_server.federation.turns import Turns

_UPLOAD_SILENCE = 15.0  # seconds without a chunk until an upload is given up; what has come stays
_MAX_HEADER = 64 << 10  # bytes
METHODS: Final = ("Attach", "Download", "Upload", "Stored", "Decide", "Proposals", "Renew", "Leave")

Context = Any  # grpc.aio.ServicerContext; its types are not published


class FederationService:
    """The calls of attached sites.

    Args:
        hub: What the coordinator knows and who is there.
        protocols: Versions that it speaks.
    """

    def __init__(self, hub: Hub, *, protocols: tuple[int, ...] = PROTOCOLS) -> None:
        self._hub = hub
        self._protocols = protocols
        self._rates = Rates(hub.settings.calls_per_second)
        self._turns = Turns()

    def handler(self) -> grpc.GenericRpcHandler:
        """Return what a gRPC server is given."""
        handlers = {
            "Attach": grpc.unary_stream_rpc_method_handler(self._attach),
            "Download": grpc.unary_stream_rpc_method_handler(self._download),
            "Upload": grpc.stream_unary_rpc_method_handler(self._upload),
            "Stored": self._unary(StoredRequest, self._stored),
            "Decide": self._unary(DecideRequest, self._decide),
            "Proposals": self._unary(Empty, self._proposals),
            "Renew": self._unary(RenewRequest, self._renew),
            "Leave": self._unary(LeaveRequest, self._leave),
        }
        if set(handlers) != set(METHODS):
            raise RuntimeError("METHODS is not the list of calls.")
        return grpc.method_handlers_generic_handler(FEDERATION, handlers)

    def _unary(
        self, kind: type[Model], answer: Callable[[str, Model], Awaitable[bytes]]
    ) -> "grpc.RpcMethodHandler[bytes, bytes]":
        async def call(content: bytes, context: Context) -> bytes:
            async with aborting(context, self._hub.refused):
                return await answer(self._authorise(context), load(kind, content))
            raise RuntimeError("abort raises")

        return grpc.unary_unary_rpc_method_handler(call)

    def _authorise(self, context: Context) -> str:
        """Return the site that calls, if it is a member and does not call too often."""
        pems = context.auth_context().get("x509_pem_cert", ())
        if len(pems) != 1:
            raise PeerRefused("No certificate was shown.", denial=Denial.UNKNOWN)
        site = self._hub.authorise(pems[0])
        self._rates.take(site)
        return site

    async def _attach(self, content: bytes, context: Context) -> AsyncIterator[bytes]:
        async with aborting(context, self._hub.refused):
            site = self._authorise(context)
            request = load(AttachRequest, content)
            protocol = agree(request.protocols, self._protocols)
            session = self._hub.attach(site, request)
            try:
                async for notice in self._notices(session, request, protocol):
                    yield dump(notice)
            finally:
                self._hub.detach(session)
            if session.ended not in (None, Denial.NO_SESSION):
                raise PeerRefused("The session was ended.", denial=session.ended)

    async def _notices(self, session: Session, request: AttachRequest, protocol: int) -> AsyncIterator[AnyNotice]:
        every = self._hub.settings.heartbeat_seconds
        yield Welcome(
            protocol=protocol,
            version=__version__,
            session=session.token,
            server_time=self._hub.now(),
            heartbeat_seconds=every,
        )
        for roster in self._hub.rosters_after(request.roster_version):
            yield RosterNotice(roster=roster)
        for notice in self._hub.pending(session.site):
            yield notice
        while session.ended is None:
            try:
                following = await asyncio.wait_for(session.notices.get(), every)
            except TimeoutError:
                yield Heartbeat()
                continue
            if following is not None:
                reach("server.send")
                yield following

    async def _download(self, content: bytes, context: Context) -> AsyncIterator[bytes]:
        async with aborting(context, self._hub.refused):
            request = load(DownloadRequest, content)
            site = self._authorise(context)
            with self._hub.sessions.call(site, request.session) as session:
                path, size = self._hub.content(site, request.task)
                if request.offset > size:
                    raise PeerRefused("The offset is behind the end.", denial=Denial.OFFSET)
                async with self._turns.wait() if size > CHUNK else contextlib.nullcontext():
                    async for chunk in _read_chunks(path, request.offset, size):
                        if session.ended is not None:
                            raise PeerRefused("The session has ended.", denial=session.ended)
                        self._hub.metrics.sent(len(chunk))
                        yield chunk

    async def _upload(self, chunks: AsyncIterator[bytes], context: Context) -> bytes:
        async with aborting(context, self._hub.refused):
            site = self._authorise(context)
            first = await _next(chunks)
            if len(first) > _MAX_HEADER:
                raise MessageError("An upload begins with its header.")
            header = load(UploadHeader, first)
            with self._hub.sessions.call(site, header.session):
                return dump(await self._receive(site, header, chunks))
        raise RuntimeError("abort raises")

    async def _receive(self, site: str, header: UploadHeader, chunks: AsyncIterator[bytes]) -> StoredReply:
        notice = self._hub.tasks.open_task(header.task, site)
        if notice is None:
            return StoredReply(stored=header.size, complete=True)
        if header.size > notice.max_reply:
            raise PeerRefused(
                f"A reply of {header.size:,} bytes is larger than this task's {notice.max_reply:,}.",
                denial=Denial.TOO_LARGE,
            )
        with self._hub.receiving(header.task):
            incoming = Incoming(self._hub.tasks.reply_path(str(header.task)), header.size, header.sha256)
            try:
                if header.offset != incoming.stored:
                    raise PeerRefused(f"{incoming.stored} bytes are stored.", denial=Denial.OFFSET)
                while incoming.stored < header.size:
                    chunk = await _next(chunks)
                    if len(chunk) > CHUNK or not chunk:
                        raise MessageError("A chunk is empty or larger than the protocol's.")
                    await _off_loop(len(chunk), incoming.write, chunk)
                    self._hub.metrics.received(len(chunk))
                await _off_loop(header.size, incoming.complete)
                self._hub.tasks.replied(header.task, incoming.path, header.size)
            finally:
                incoming.close()
        self._hub.replied(header.task)
        reach("server.acknowledge")
        return StoredReply(stored=header.size, complete=True)

    async def _stored(self, site: str, request: StoredRequest) -> bytes:
        with self._hub.sessions.call(site, request.session):
            if self._hub.tasks.open_task(request.task, site) is None:
                return dump(StoredReply(stored=request.size, complete=True))
            self._hub.drop_receiver(request.task)
            incoming = Incoming(self._hub.tasks.reply_path(str(request.task)), request.size, request.sha256)
            incoming.close()
            return dump(StoredReply(stored=incoming.stored, complete=False))

    async def _decide(self, site: str, request: DecideRequest) -> bytes:
        await self._hub.decide(site, request)
        return dump(Empty())

    async def _proposals(self, site: str, _request: Empty) -> bytes:
        return dump(ProposalsReply(proposals=tuple(self._hub.studies.proposals_for(site))))

    async def _renew(self, site: str, request: RenewRequest) -> bytes:
        with self._hub.sessions.call(site, request.session):
            return dump(self._hub.membership.renew(site, request.certificate_request))

    async def _leave(self, site: str, request: LeaveRequest) -> bytes:
        self._hub.leave(site, request)
        return dump(Empty())


async def _next(chunks: AsyncIterator[bytes]) -> bytes:
    try:
        return await asyncio.wait_for(anext(chunks), _UPLOAD_SILENCE)
    except StopAsyncIteration:
        raise MessageError("The upload ended before its last byte.") from None
    except TimeoutError:
        raise MessageError(f"No chunk came for {_UPLOAD_SILENCE:.0f} s.") from None


async def _off_loop(size: int, work: Callable[..., None], *arguments: bytes) -> None:
    """Do disk work beside the event loop where it is long enough to hold others up."""
    if size < CHUNK // 4:
        work(*arguments)
    else:
        await asyncio.to_thread(work, *arguments)


async def _read_chunks(path: Path, offset: int, size: int) -> AsyncIterator[bytes]:
    with path.open("rb") as file:
        file.seek(offset)
        while offset < size:
            chunk = file.read(CHUNK) if size < CHUNK else await asyncio.to_thread(file.read, CHUNK)
            if not chunk:
                raise RuntimeError(f"{path} is shorter than its row says.")
            offset += len(chunk)
            yield chunk


def refuse_everything(service: str, methods: tuple[str, ...]) -> grpc.GenericRpcHandler:
    """Return handlers that refuse calls which exist elsewhere only: the coordinator's own, on its socket."""

    async def refuse(_content: bytes, context: Context) -> bytes:
        async with aborting(context, lambda _denial: None):
            raise PeerRefused("This call is for the coordinator's own machine.", denial=Denial.FORBIDDEN)
        raise RuntimeError("abort raises")

    handlers: dict[str, Any] = {name: grpc.unary_unary_rpc_method_handler(refuse) for name in methods}
    return grpc.method_handlers_generic_handler(service, handlers)
