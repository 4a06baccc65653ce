"""The TLS profile on real sockets: what a hostile client and a hostile server get."""

import contextlib
import datetime as dt
import ipaddress
import os
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from tests.chaos.cutting_proxy import CuttingProxy, Weather

from hansa_common.identity import site_of, site_uri
from hansa_common.wire.protocol import CHUNK
from hansa_common.wire.tls import CLIENT_OPTIONS, SERVER_OPTIONS, client_credentials, client_options, server_credentials

NOW = dt.datetime.now(dt.UTC)
HOUR = dt.timedelta(hours=1)
_TLS_1_2 = "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES128-GCM-SHA256"


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """A certificate and its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(Encoding.PEM).decode()

    @property
    def key_pem(self) -> bytes:
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def files(self, folder: Path) -> Path:
        path = folder / f"{self.certificate.serial_number}.pem"
        path.write_bytes(self.pem.encode() + self.key_pem)
        return path


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def authority(name: str = "authority") -> Holder:
    key = ec.generate_private_key(ec.SECP256R1())
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .issuer_name(_name(name))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - HOUR)
        .not_valid_after(NOW + HOUR)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    )
    return Holder(certificate=builder.sign(key, hashes.SHA256()), key=key)


def issue(
    by: Holder, *names: x509.GeneralName, usage: x509.ObjectIdentifier, until: dt.datetime = NOW + HOUR
) -> Holder:
    key = ec.generate_private_key(ec.SECP256R1())
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name("hansa"))
        .issuer_name(by.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - 2 * HOUR)
        .not_valid_after(until)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    )
    return Holder(certificate=builder.sign(by.key, hashes.SHA256()), key=key)


def server_of(by: Holder, host: str = "127.0.0.1") -> Holder:
    return issue(by, x509.IPAddress(ipaddress.ip_address(host)), usage=ExtendedKeyUsageOID.SERVER_AUTH)


def site_of_federation(by: Holder, *, until: dt.datetime = NOW + HOUR) -> Holder:
    name = x509.UniformResourceIdentifier(site_uri("thorax", "Hospital A"))
    return issue(by, name, usage=ExtendedKeyUsageOID.CLIENT_AUTH, until=until)


def _answer(content: bytes, context: grpc.ServicerContext) -> bytes:
    shown: Any = context.auth_context()
    pems = shown.get("x509_pem_cert", ())
    names = site_of(x509.load_pem_x509_certificate(pems[0])) if pems else ("", "nobody")
    return f"{len(content)} {names[1]}".encode()


def _serve(port: grpc.ServerCredentials) -> tuple[grpc.Server, int]:
    server = grpc.server(futures.ThreadPoolExecutor(4), options=SERVER_OPTIONS)
    handlers: dict[str, Any] = {"Call": grpc.unary_unary_rpc_method_handler(_answer)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("Test", handlers),))
    number = server.add_secure_port("127.0.0.1:0", port)
    server.start()
    return server, number


CA = authority()
SERVER = server_of(CA)
SITE = site_of_federation(CA)


@pytest.fixture(scope="module")
def enrolment() -> Iterator[int]:
    server, port = _serve(server_credentials(SERVER.key_pem, SERVER.pem))
    yield port
    server.stop(None).wait()


@pytest.fixture(scope="module")
def federation() -> Iterator[int]:
    server, port = _serve(server_credentials(SERVER.key_pem, SERVER.pem, authorities=(CA.pem,)))
    yield port
    server.stop(None).wait()


def ask(port: int, credentials: grpc.ChannelCredentials, content: bytes = b"", host: str = "127.0.0.1") -> str:
    with grpc.secure_channel(f"{host}:{port}", credentials, options=client_options()) as channel:
        call: Any = channel.unary_unary("/Test/Call")
        return bytes(call(content, timeout=10.0)).decode()


def refused(port: int, credentials: grpc.ChannelCredentials) -> str:
    with pytest.raises(grpc.RpcError) as error:
        ask(port, credentials)
    assert error.value.code() == grpc.StatusCode.UNAVAILABLE
    return str(error.value.details())


def test_enrolment_needs_no_certificate_and_the_federation_names_the_site(enrolment: int, federation: int) -> None:
    assert ask(enrolment, client_credentials([CA.pem])) == "0 nobody"
    assert ask(federation, client_credentials([CA.pem], SITE.pem, SITE.key_pem)) == "0 Hospital A"


def test_two_authorities_are_trusted_while_one_replaces_the_other(federation: int) -> None:
    other = authority("the next one")
    assert ask(federation, client_credentials([other.pem, CA.pem], SITE.pem, SITE.key_pem)) == "0 Hospital A"


def test_no_certificate_no_call(federation: int) -> None:
    refused(federation, client_credentials([CA.pem]))


def test_a_certificate_of_another_authority_is_refused(federation: int) -> None:
    stranger = site_of_federation(authority())  # of the same name, even
    refused(federation, client_credentials([CA.pem], stranger.pem, stranger.key_pem))


def test_an_expired_certificate_is_refused(federation: int) -> None:
    late = site_of_federation(CA, until=NOW - HOUR)
    refused(federation, client_credentials([CA.pem], late.pem, late.key_pem))


def test_a_certificate_with_anothers_key_is_refused(federation: int) -> None:
    other = site_of_federation(CA)
    refused(federation, client_credentials([CA.pem], SITE.pem, other.key_pem))


def test_a_server_certificate_does_not_make_a_site(federation: int) -> None:
    refused(federation, client_credentials([CA.pem], SERVER.pem, SERVER.key_pem))


def test_a_server_of_another_authority_gets_nothing(enrolment: int) -> None:
    for stranger in (authority("another"), authority()):  # the second has the right one's name
        assert "certificate" in refused(enrolment, client_credentials([stranger.pem])).lower()


@pytest.mark.parametrize("what", ["host", "usage"])
def test_a_server_of_another_host_or_a_site_that_plays_server_gets_nothing(what: str) -> None:
    fake = server_of(CA, "127.0.0.2") if what == "host" else SITE
    server, port = _serve(server_credentials(fake.key_pem, fake.pem))
    try:
        refused(port, client_credentials([CA.pem]))
    finally:
        server.stop(None).wait()


def test_a_site_at_the_other_end_of_the_world_gets_through(
    federation: int, cutting_proxy: Callable[[int], CuttingProxy]
) -> None:
    proxy = cutting_proxy(federation)
    proxy.set(Weather(delay=0.15))  # seconds one way: 0.9 s until TCP, TLS and HTTP/2 have shaken hands
    assert ask(proxy.port, client_credentials([CA.pem], SITE.pem, SITE.key_pem)) == "0 Hospital A"


def test_a_message_larger_than_a_chunk_is_refused_unread(federation: int) -> None:
    credentials = client_credentials([CA.pem], SITE.pem, SITE.key_pem)
    assert ask(federation, credentials, bytes(CHUNK)) == f"{CHUNK} Hospital A"
    unlimited = [(name, value) for name, value in CLIENT_OPTIONS if name != "grpc.max_send_message_length"]
    with grpc.secure_channel(f"127.0.0.1:{federation}", credentials, options=unlimited) as channel:
        call: Any = channel.unary_unary("/Test/Call")
        with pytest.raises(grpc.RpcError) as error:
            call(bytes(2 * CHUNK), timeout=10.0)
    assert error.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


# --- Versions of TLS: the other side is OpenSSL -------------------------------------------------------------------


def handshake(port: int, folder: Path, version: ssl.TLSVersion) -> str | None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(cadata=CA.pem)
    context.load_cert_chain(SITE.files(folder))
    context.minimum_version = context.maximum_version = version
    context.set_ciphers(_TLS_1_2)
    context.set_alpn_protocols(["h2"])
    with socket.create_connection(("127.0.0.1", port), timeout=10.0) as plain, context.wrap_socket(plain) as secure:
        return secure.version()


def test_a_client_speaks_tls_1_3_or_nothing(enrolment: int, federation: int, tmp_path: Path) -> None:
    for port in (enrolment, federation):
        assert handshake(port, tmp_path, ssl.TLSVersion.TLSv1_3) == "TLSv1.3"
        with pytest.raises((ssl.SSLError, ConnectionError)):
            handshake(port, tmp_path, ssl.TLSVersion.TLSv1_2)


@contextlib.contextmanager
def openssl_server(folder: Path, version: ssl.TLSVersion) -> Iterator[tuple[int, list[str | None]]]:
    """A server that speaks one version; the list holds the versions of the handshakes that came to an end."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(SERVER.files(folder))
    context.minimum_version = context.maximum_version = version
    context.set_ciphers(_TLS_1_2)
    context.set_alpn_protocols(["h2"])
    done: list[str | None] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    plain, _ = listener.accept()
                except OSError:
                    return
                with plain, contextlib.suppress(OSError), context.wrap_socket(plain, server_side=True) as secure:
                    done.append(secure.version())

        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1], done
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def test_a_server_that_speaks_only_tls_1_2_gets_nothing(tmp_path: Path) -> None:
    for version, expected in ((ssl.TLSVersion.TLSv1_3, True), (ssl.TLSVersion.TLSv1_2, False)):
        with openssl_server(tmp_path, version) as (port, done):
            refused(port, client_credentials([CA.pem]))  # it speaks no HTTP/2 in either case
        assert ("TLSv1.3" in done) == expected
        assert "TLSv1.2" not in done


_LATE = """
import {module}
import grpc, sys
from concurrent import futures
key, certificate = (open(path, "rb").read() for path in sys.argv[1:])
from hansa_common.wire.tls import SERVER_OPTIONS, server_credentials
server = grpc.server(futures.ThreadPoolExecutor(1), options=SERVER_OPTIONS)
print(server.add_secure_port("127.0.0.1:0", server_credentials(key, certificate.decode())), flush=True)
server.start()
sys.stdin.read()
"""


@pytest.mark.parametrize("module", ["hansa_common.cli", "hansa_server.app", "hansa_client.app"])
def test_it_holds_in_a_process_of_its_own_whatever_its_way_in(tmp_path: Path, module: str) -> None:
    (tmp_path / "key").write_bytes(SERVER.key_pem)
    (tmp_path / "certificate").write_text(SERVER.pem)
    command = [sys.executable, "-c", _LATE.format(module=module), str(tmp_path / "key"), str(tmp_path / "certificate")]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GRPC")}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        assert handshake(port, tmp_path, ssl.TLSVersion.TLSv1_3) == "TLSv1.3"
        with pytest.raises((ssl.SSLError, ConnectionError)):
            handshake(port, tmp_path, ssl.TLSVersion.TLSv1_2)
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(10.0) == 0
