import datetime as dt
import re
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from hansa_common.errors import IdentityError, StorageError
from hansa_common.files import write_secret
from hansa_common.identity import NodeKeys, NodePublicKeys, fingerprint, pin_of, site_of, site_uri, tls_public_hex

TLS = ec.derive_private_key(7, ec.SECP256R1())
_NAME = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "hansa site")])
_START = dt.datetime(2025, 1, 1, tzinfo=dt.UTC)


def certificate(*names: x509.GeneralName, key: Any = TLS) -> x509.Certificate:
    builder = (
        x509.CertificateBuilder()
        .subject_name(_NAME)
        .issuer_name(_NAME)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(_START)
        .not_valid_after(_START + dt.timedelta(days=1))
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(key, hashes.SHA256())


def uri(text: str) -> x509.UniformResourceIdentifier:
    return x509.UniformResourceIdentifier(text)


@given(
    federation=st.from_regex("[a-z0-9][a-z0-9-]{0,20}", fullmatch=True),
    site=st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/\\"), min_size=1, max_size=64),
)
def test_a_site_of_any_name_is_read_back_from_its_uri(federation: str, site: str) -> None:
    text = site_uri(federation, site)
    assert text.isascii()
    assert site_of(certificate(uri(text))) == (federation, site)


@given(first=st.tuples(st.text(max_size=9), st.text(max_size=9)), second=st.tuples(st.text(max_size=9), st.text()))
def test_two_sites_never_share_a_uri(first: tuple[str, str], second: tuple[str, str]) -> None:
    assert (site_uri(*first) == site_uri(*second)) == (first == second)


@pytest.mark.parametrize(
    "names",
    [
        (),
        (uri("https://thorax/A"),),
        (uri("hansa://thorax"),),
        (uri("hansa://thorax/"),),
        (uri("hansa:///A"),),
        (uri("hansa://[thorax/A"),),
        (uri("hansa://thorax/A?x"),),
        (uri("hansa://thorax/A#x"),),
        (uri("hansa://thorax/%41"),),
        (uri("hansa://thorax/%FF"),),
        (uri("hansa://thorax/A/B"),),
        (uri("HANSA://thorax/A"),),
        (uri("hansa://thorax/A\n"),),
        (uri("hansa://thorax/A"), uri("hansa://thorax/B")),
        (uri("hansa://thorax/A"), x509.DNSName("b.example.org")),
        (x509.DNSName("a.example.org"),),
    ],
    ids=lambda names: "+".join(name.value for name in names) or "no name",
)
def test_a_certificate_of_another_profile_names_nobody(names: tuple[x509.GeneralName, ...]) -> None:
    with pytest.raises(IdentityError, match="names no site"):
        site_of(certificate(*names))


def test_malformed_extensions_name_nobody() -> None:
    der = certificate(uri("hansa://thorax/A")).public_bytes(Encoding.DER)
    broken = der.replace(b"\x86\x10hansa://thorax/A", b"\x9f\x10hansa://thorax/A")
    assert broken != der
    with pytest.raises(IdentityError):
        site_of(x509.load_der_x509_certificate(broken))


def test_keys_are_read_back_and_only_their_owner_can(tmp_path: Path) -> None:
    keys = NodeKeys.generate()
    keys.save(tmp_path)
    assert {path.name: oct(path.stat().st_mode & 0o777) for path in tmp_path.iterdir()} == {
        "signing.pem": "0o600",
        "agreement.pem": "0o600",
        "tls.pem": "0o600",
    }
    assert NodeKeys.load(tmp_path).public() == keys.public()
    (tmp_path / "agreement.pem").chmod(0o644)
    with pytest.raises(IdentityError, match="chmod"):
        NodeKeys.load(tmp_path)


def test_keys_are_never_overwritten(tmp_path: Path) -> None:
    NodeKeys.generate().save(tmp_path)
    with pytest.raises(StorageError, match="exists already"):
        NodeKeys.generate().save(tmp_path)


def test_two_nodes_have_nothing_in_common() -> None:
    first, second = (NodeKeys.generate().public().model_dump() for _ in range(2))
    assert not set(first.values()) & set(second.values())


@pytest.mark.parametrize("content", [b"", b"no PEM", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"])
def test_a_file_that_is_no_key_says_so(tmp_path: Path, content: bytes) -> None:
    NodeKeys.generate().save(tmp_path)
    (tmp_path / "tls.pem").write_bytes(content)
    with pytest.raises(StorageError, match=r"tls\.pem holds no private key"):
        NodeKeys.load(tmp_path)


@pytest.mark.parametrize("key", [ec.generate_private_key(ec.SECP384R1()), rsa.generate_private_key(65537, 2048)])
def test_a_key_of_another_kind_is_refused(tmp_path: Path, key: Any) -> None:
    NodeKeys.generate().save(tmp_path)
    (tmp_path / "tls.pem").unlink()
    write_secret(tmp_path / "tls.pem", key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    with pytest.raises(StorageError, match="other keys than a node's"):
        NodeKeys.load(tmp_path)


def test_private_keys_are_not_printed() -> None:
    keys = NodeKeys.generate()
    assert repr(keys) == str(keys) == "NodeKeys()"


def test_the_request_is_for_the_tls_key_and_signed_with_it(cast: Any) -> None:
    request = x509.load_pem_x509_csr(cast.node(3).certificate_request().encode())
    assert request.is_signature_valid
    public = request.public_key()
    assert isinstance(public, ec.EllipticCurvePublicKey)
    assert tls_public_hex(public) == cast.node(3).public().tls


@pytest.mark.parametrize(
    ("name", "value"),
    [("signing", "AB" * 32), ("signing", "ab" * 31), ("agreement", "ab" * 32 + "\n"), ("tls", "ab" * 90)],
)
def test_public_keys_are_spelled_in_one_way(cast: Any, name: str, value: str) -> None:
    with pytest.raises(ValidationError):
        NodePublicKeys(**(cast.node(1).public().model_dump() | {name: value}))


def test_a_pin_is_that_of_the_key_and_not_of_the_certificate() -> None:
    first, second = certificate(uri("hansa://a/b")), certificate(uri("hansa://c/d"))
    assert pin_of(first) == pin_of(second)
    assert pin_of(first) != pin_of(certificate(uri("hansa://a/b"), key=ec.derive_private_key(8, ec.SECP256R1())))


def test_a_fingerprint_is_100_bits_to_read_aloud() -> None:
    assert re.fullmatch(r"([A-Z2-7]{4}-){4}[A-Z2-7]{4}", fingerprint({"a": 1}))
    # printf '{"a":2,"b":1}' | sha256sum | xxd -r -p | base32
    assert fingerprint({"b": 1, "a": 2}) == "2NRG-VQYK-Q7TP-PJSC-QIZ3"
