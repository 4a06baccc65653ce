"""The TLS profile: version 1.3 both ways (see ``hansa_common``), and the options of every connection."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import grpc

from hansa_common import TLS_IS_1_3_ONLY
from hansa_common.wire.protocol import CHUNK, MAX_CALL

_OVERHEAD: Final = 64 << 10  # bytes

SERVER_OPTIONS: Final[Sequence[tuple[str, int]]] = (
    ("grpc.max_receive_message_length", CHUNK + _OVERHEAD),
    ("grpc.max_send_message_length", MAX_CALL),
    ("grpc.max_metadata_size", 16 << 10),
    ("grpc.max_concurrent_streams", 64),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 500),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.so_reuseport", 0),
    # A fixed window bounds what is in memory for each site, where gRPC's own estimate takes ten times as much; a site
    # 100 ms away sends 10 MB/s at most.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", 1 << 20),
)

CLIENT_OPTIONS: Final[Sequence[tuple[str, int]]] = (
    ("grpc.max_receive_message_length", MAX_CALL),
    ("grpc.max_send_message_length", CHUNK + _OVERHEAD),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.min_reconnect_backoff_ms", 10_000),  # how long one attempt may take; who waits between two is the caller
    ("grpc.enable_retries", 0),
)


def client_options(*, proxy: str | None = None) -> list[tuple[str, int | str]]:
    """Return a client's options; ``proxy`` is an HTTP CONNECT proxy as ``host:port``, and only that one is used.

    Without one the environment's proxies are not asked: a site's settings say how it connects, and nothing else does.
    """
    if proxy is not None:
        return [*CLIENT_OPTIONS, ("grpc.http_proxy", f"http://{proxy}")]
    return [*CLIENT_OPTIONS, ("grpc.enable_http_proxy", 0)]


def client_credentials(authorities: Sequence[str], certificate: str = "", key: bytes = b"") -> grpc.ChannelCredentials:
    """Return credentials that trust these authorities only; with certificate and key they say who connects.

    Args:
        authorities: PEM certificates.
        certificate: PEM; empty for the enrolment port.
        key: PEM of its private key.
    """
    _require_profile()
    roots = "".join(authorities).encode()
    if not certificate:
        return grpc.ssl_channel_credentials(root_certificates=roots)
    return grpc.ssl_channel_credentials(
        root_certificates=roots, private_key=key, certificate_chain=certificate.encode()
    )


def server_credentials(key: bytes, certificate: str, *, authorities: Sequence[str] = ()) -> grpc.ServerCredentials:
    """Return a port's credentials; with ``authorities`` every client must show a certificate of one of them."""
    _require_profile()
    pairs = [(key, certificate.encode())]
    if not authorities:
        return grpc.ssl_server_credentials(pairs)
    return grpc.ssl_server_credentials(pairs, root_certificates="".join(authorities).encode(), require_client_auth=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerIdentity:
    """What a server shows.

    Attributes:
        key: PEM of the certificate's private key.
        chain: PEM of its certificate, and of those that lead from there to older authorities.
        authorities: PEM; every client must show a certificate of one of them. Empty: no client shows one.
    """

    key: bytes = field(repr=False)
    chain: str
    authorities: tuple[str, ...] = ()


def changing_server_credentials(current: Callable[[], ServerIdentity]) -> grpc.ServerCredentials:
    """Return a port's credentials that are asked for anew with each connection; those that there are stay as they are.

    Args:
        current: Returns what is to be shown now; called on gRPC's threads, so it must not raise.
    """
    _require_profile()
    shown = current()
    lock = threading.Lock()

    def configuration(identity: ServerIdentity) -> grpc.ServerCertificateConfiguration:
        roots = "".join(identity.authorities).encode() or None
        return grpc.ssl_server_certificate_configuration([(identity.key, identity.chain.encode())], roots)

    def changed() -> grpc.ServerCertificateConfiguration | None:
        nonlocal shown
        with lock:
            identity = current()
            if identity == shown:
                return None
            shown = identity
            return configuration(identity)

    return grpc.dynamic_ssl_server_credentials(
        configuration(shown),
        changed,  # type: ignore[arg-type] # None is "as before", says its documentation
        require_client_authentication=bool(shown.authorities),
    )


def _require_profile() -> None:
    if not TLS_IS_1_3_ONLY:
        raise RuntimeError("grpc was loaded before hansa_common, so older versions of TLS would be accepted.")
