"""A coordinator that says and sends whatever a test wants, with a certificate of the site's own authority."""

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from ipaddress import IPv4Address
from typing import Any, Self

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from tests.chaos.processes import wait_until
from tests.unit.client.site_cast import Root

from hansa_common.wire import tls
from hansa_common.wire.protocol import (
    CHUNK,
    FEDERATION,
    AnyNotice,
    DownloadRequest,
    Empty,
    Heartbeat,
    StoredReply,
    StoredRequest,
    TaskId,
    TaskNotice,
    UploadHeader,
    Welcome,
    dump,
    load,
)


class HostileCoordinator:
    """The Federation service, as a script has it.

    Args:
        root: The authority that the site trusts.
    """

    def __init__(self, root: Root) -> None:
        self.sessions = 0
        self.patience = 20.0  # seconds to wait for the site
        self.blame: Callable[[], str] = str  # asked for what went wrong
        self.replies: dict[str, bytes] = {}
        self.opening: Sequence[bytes] | None = None  # what the next session begins with, instead of a welcome
        self._contents: dict[str, Sequence[bytes]] = {}
        self._said: queue.Queue[bytes | None] = queue.Queue()
        options = [*tls.SERVER_OPTIONS, ("grpc.max_send_message_length", -1)]
        self._server = grpc.server(ThreadPoolExecutor(16), options=options)
        calls: dict[str, Any] = {
            "Attach": grpc.unary_stream_rpc_method_handler(self._attach),
            "Download": grpc.unary_stream_rpc_method_handler(self._download),
            "Upload": grpc.stream_unary_rpc_method_handler(self._upload),
            "Stored": grpc.unary_unary_rpc_method_handler(self._stored),
            "Decide": grpc.unary_unary_rpc_method_handler(lambda _content, _context: dump(Empty())),
        }
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(FEDERATION, calls),))
        key, certificate = _certificate(root)
        credentials = tls.server_credentials(key, certificate, authorities=(root.pem,))
        self.port = self._server.add_secure_port("127.0.0.1:0", credentials)

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._said.put(None)
        self._server.stop(0.2).wait()

    # --- What a test does -----------------------------------------------------------------------------------------

    @property
    def unsaid(self) -> int:
        """How many notices the session has still to say."""
        return self._said.qsize()

    def say(self, *notices: AnyNotice | bytes) -> None:
        """Tell the site something."""
        for notice in notices:
            self._said.put(notice if isinstance(notice, bytes) else dump(notice))

    def say_and_be_left(self, *notices: AnyNotice | bytes) -> None:
        """Tell the site something upon which it ends the session and comes again."""
        before = self.sessions
        self.say(*notices)
        wait_until(lambda: self.sessions > before, "the site's next session", seconds=self.patience, blame=self.blame)

    def open_with(self, *notices: AnyNotice | bytes) -> None:
        """Begin the next session, that is provoked now, with something else than a welcome."""
        self.opening = [notice if isinstance(notice, bytes) else dump(notice) for notice in notices]
        self.say_and_be_left(b"no JSON")
        wait_until(lambda: self.opening is None, "the strange session", seconds=self.patience, blame=self.blame)
        before = self.sessions
        wait_until(lambda: self.sessions > before, "the next session", seconds=self.patience, blame=self.blame)

    def ask(self, task: TaskId, *chunks: bytes, **announced: Any) -> bytes:
        """Give the site a task and return its reply; what is announced may differ from what is sent."""
        content = b"".join(chunks)
        cut = [content[at : at + CHUNK] for at in range(0, len(content), CHUNK)]
        self._contents[str(task)] = announced.pop("sent", cut)
        values = {
            "task": task,
            "size": len(content),
            "sha256": sha256(content).hexdigest(),
            "max_reply": 1 << 30,
            "seconds": 60.0,
        }
        self.say(TaskNotice.model_validate(values | announced))
        return wait_until(
            lambda: self.replies.get(str(task)), f"the reply to {task}", seconds=self.patience, blame=self.blame
        )

    # --- The calls ------------------------------------------------------------------------------------------------

    def _attach(self, _content: bytes, context: Any) -> Iterator[bytes]:
        said = self._said = queue.Queue()
        opening, self.opening = self.opening, None
        self.sessions += 1
        yield from [welcome(self.sessions)] if opening is None else opening
        while context.is_active():
            try:
                notice = said.get(timeout=0.2)
            except queue.Empty:
                notice = dump(Heartbeat())
            if notice is None:
                return
            yield notice

    def _download(self, content: bytes, context: Any) -> Iterator[bytes]:
        task = str(load(DownloadRequest, content).task)
        if task not in self._contents:  # a task that was only announced: nothing ever comes
            ended = threading.Event()
            context.add_callback(ended.set)
            ended.wait()
        yield from self._contents.get(task, ())

    def _upload(self, chunks: Iterator[bytes], _context: Any) -> bytes:
        header = load(UploadHeader, next(chunks))
        content = b"".join(chunks)
        self.replies[str(header.task)] = content
        return dump(StoredReply(stored=len(content), complete=True))

    def _stored(self, content: bytes, _context: Any) -> bytes:
        load(StoredRequest, content)
        return dump(StoredReply(stored=0, complete=False))


def welcome(number: int, **fields: Any) -> bytes:
    """Return a session's first notice."""
    values = {"protocol": 1, "version": "0", "session": f"{number:064x}", "server_time": 0.0, "heartbeat_seconds": 5.0}
    return dump(Welcome.model_validate(values | fields))


def _certificate(root: Root) -> tuple[bytes, str]:
    """Return a key and the authority's word that it is this machine's."""
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(root.name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=True)
        .sign(root.key, hashes.SHA256())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return private, certificate.public_bytes(Encoding.PEM).decode()
