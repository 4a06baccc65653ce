"""Single calls to the coordinator from commands: a channel, one call, an error in words."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import grpc

from hansa_client.folder import SiteFolder
from hansa_common.display import printable
from hansa_common.errors import HansaError, PeerRefused, Unreachable
from hansa_common.settings import Model, Strict
from hansa_common.wire import tls
from hansa_common.wire.protocol import DENIAL_KEY, FEDERATION, dump, load

_CALL: Final = 15.0  # seconds


@contextmanager
def enrolment_channel(address: str, authorities: tuple[str, ...], *, proxy: str | None) -> Iterator[Any]:
    """Open a channel to the enrolment port that trusts these authorities only."""
    credentials = tls.client_credentials(authorities)
    with grpc.secure_channel(address, credentials, options=tls.client_options(proxy=proxy)) as channel:
        yield channel


@contextmanager
def federation_channel(folder: SiteFolder) -> Iterator[Any]:
    """Open a channel to the federation port with the site's certificate; no session belongs to it."""
    credentials = tls.client_credentials(folder.authorities(), folder.certificate(), folder.keys().tls_pem())
    options = tls.client_options(proxy=folder.settings().proxy)
    with grpc.secure_channel(folder.membership().address, credentials, options=options) as channel:
        yield channel


def call(channel: Any, service: str, method: str, request: Strict, reply: type[Model]) -> Model:
    """Make one call.

    Raises:
        PeerRefused: The coordinator refused; ``denial`` says why.
        Unreachable: It cannot be reached, or is not the one that the authority certified.
    """
    try:
        content = channel.unary_unary(f"/{service}/{method}")(dump(request), timeout=_CALL)
    except grpc.RpcError as error:
        raise error_of(error) from None
    return load(reply, content)


def call_federation(folder: SiteFolder, method: str, request: Strict, reply: type[Model]) -> Model:
    """Make one call with the site's certificate.

    Raises:
        PeerRefused, Unreachable: As ``call``.
    """
    with federation_channel(folder) as channel:
        return call(channel, FEDERATION, method, request, reply)


def error_of(error: Any) -> HansaError:
    """Return what a gRPC error means here; reasons are read from codes, never from text."""
    denial = dict(error.trailing_metadata() or ()).get(DENIAL_KEY, "")
    if denial:
        message, _, advice = (error.details() or "").partition("\n")
        return PeerRefused(printable(message[:2_000]), denial=str(denial), advice=printable(advice[:2_000]))
    return Unreachable(
        printable(
            f"The coordinator cannot be reached ({error.code().name.lower().replace('_', ' ')}): {error.details()}"[
                :500
            ]
        ),
        advice="Check the address, a firewall or proxy, and that the server runs; 'hansa site check' looks at each.",
    )
