"""A bare client with a site's identity, for attacks: every field of every call can be chosen."""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, Self

import grpc

from hansa_client.calls import error_of
from hansa_client.folder import SiteFolder
from hansa_common.errors import HansaError, PeerRefused
from hansa_common.settings import Model, Strict
from hansa_common.signing import sign
from hansa_common.wire import tls
from hansa_common.wire.protocol import (
    FEDERATION,
    AnyNotice,
    AttachRequest,
    DownloadRequest,
    StoredReply,
    TaskId,
    TaskNotice,
    UploadHeader,
    Welcome,
    dump,
    load,
    load_notice,
)

_SECONDS = 15.0
NO_CALL: Final = "no call"


def outcome(attempt: Callable[[], object]) -> str:
    """Return the denial that it was refused with, ``ACCEPTED``, or ``NO_CALL`` where no server answered."""
    try:
        attempt()
    except grpc.RpcError as error:
        return _denial(error_of(error))
    except HansaError as error:
        return _denial(error)
    return "ACCEPTED"


def _denial(error: HansaError) -> str:
    return error.denial if isinstance(error, PeerRefused) else NO_CALL


class Peer:
    """One connection to the federation port.

    Args:
        folder: The site whose identity it has.
        address: Of the port; the site's own where it is ``None``.
        certificate: Instead of the site's; empty for none.
        key: PEM, instead of the site's.
    """

    def __init__(
        self, folder: Path, *, address: str | None = None, certificate: str | None = None, key: bytes | None = None
    ) -> None:
        self.site = SiteFolder(folder)
        self.membership = self.site.membership()
        self.session = ""
        shown = self.site.certificate() if certificate is None else certificate
        credentials = tls.client_credentials(
            self.site.authorities(), shown, (key or self.site.keys().tls_pem()) if shown else b""
        )
        self.channel: Any = grpc.secure_channel(
            address or self.membership.address, credentials, options=tls.client_options()
        )
        self._stream: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        if self._stream is not None:
            self._stream.cancel()
        self.channel.close()

    def raw(self, method: str, content: bytes, *, service: str = FEDERATION, seconds: float = _SECONDS) -> bytes:
        """Make a unary call with any bytes; a refusal raises as it would in a command."""
        try:
            found: bytes = self.channel.unary_unary(f"/{service}/{method}")(content, timeout=seconds)
        except grpc.RpcError as error:
            raise error_of(error) from None
        return found

    def call(self, method: str, request: Strict, reply: type[Model], *, service: str = FEDERATION) -> Model:
        """Make a unary call."""
        return load(reply, self.raw(method, dump(request), service=service))

    def attach(self, *, counter: int | None = None, **fields: Any) -> Iterator[AnyNotice]:
        """Open a session and return its notices; the first, the welcome, is read."""
        number = self.site.next_counter() if counter is None else counter
        statement = {"federation": self.membership.federation, "site": self.membership.site, "counter": number}
        values = {
            "version": "test",
            "counter": number,
            "signature": sign(self.site.keys().signing, "session", statement),
        }
        request = AttachRequest.model_validate(values | fields)
        self._stream = self.channel.unary_stream(f"/{FEDERATION}/Attach")(dump(request))
        notices = self._notices()
        welcome = next(notices)
        assert isinstance(welcome, Welcome)
        self.session = welcome.session
        return notices

    def _notices(self) -> Iterator[AnyNotice]:
        try:
            for content in self._stream:
                yield load_notice(content)
        except grpc.RpcError as error:
            raise error_of(error) from None

    def task(self, notices: Iterator[AnyNotice]) -> TaskNotice:
        """Return the next task."""
        return next(notice for notice in notices if isinstance(notice, TaskNotice))

    def download(self, task: TaskId, *, offset: int = 0, session: str | None = None) -> bytes:
        """Fetch a task's bytes."""
        request = DownloadRequest(session=session or self.session, task=task, offset=offset)
        try:
            chunks = self.channel.unary_stream(f"/{FEDERATION}/Download")(dump(request), timeout=_SECONDS)
            return b"".join(chunks)
        except grpc.RpcError as error:
            raise error_of(error) from None

    def upload(self, task: TaskId, content: bytes, *, chunk: int = 1 << 17, **fields: Any) -> StoredReply:
        """Send a reply; fields of its header may be chosen."""
        header = {
            "session": self.session,
            "task": task,
            "size": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
        }
        first = dump(UploadHeader.model_validate(header | fields))

        def pieces() -> Iterator[bytes]:
            yield first
            for start in range(0, len(content), chunk):
                yield content[start : start + chunk]

        try:
            reply = self.channel.stream_unary(f"/{FEDERATION}/Upload")(pieces(), timeout=_SECONDS)
        except grpc.RpcError as error:
            raise error_of(error) from None
        return load(StoredReply, reply)
