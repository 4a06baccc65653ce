"""The coordinator's certificate authority: it says which key speaks TLS for which name, and admits nobody.

Profile (RFC 5280): P-256 throughout; a site's certificate names one URI and may only be a client's, the server's names
its host and may only be a server's. The root key lies encrypted and is in memory while the server runs.
"""

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from hansa_common.errors import IdentityError, PeerRefused, UsageError
from hansa_common.files import read_secret, write_secret, write_whole
from hansa_common.identity import pin_of, site_uri, tls_public_hex
from hansa_common.wire.protocol import Denial
from hansa_server.federation.folder import FederationFolder

_ROOT_YEARS: Final = 20
_EARLIER: Final = timedelta(minutes=5)  # clocks differ


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """A certificate that was issued.

    Attributes:
        certificate: PEM.
        serial: Hexadecimal digits.
        expires: Unix time in seconds.
    """

    certificate: str
    serial: str
    expires: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Authority:
    """The root and its key.

    Attributes:
        certificate: PEM of the root.
        pin: SHA-256 of its public key.
    """

    certificate: str
    pin: str
    _root: x509.Certificate = field(repr=False)
    _key: ec.EllipticCurvePrivateKey = field(repr=False)
    _folder: FederationFolder = field(repr=False)

    @classmethod
    def create(cls, folder: FederationFolder, federation: str, passphrase: bytes) -> Self:
        """Make a new root.

        Raises:
            UsageError: The passphrase is empty.
            StorageError: There is one already, or the disk fails.
        """
        if not passphrase:
            raise UsageError("The passphrase is empty.", advice="The root key is never stored unencrypted.")
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{federation} coordinator")])
        usage = _usage(digital_signature=False, signs_certificates=True)
        root = (
            _certificate(name, name, key.public_key(), timedelta(days=365 * _ROOT_YEARS))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .sign(key, hashes.SHA256())
        )
        encrypted = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(passphrase))
        write_secret(folder.authority / "root.pem", encrypted)
        write_whole(folder.authority / "root.crt", root.public_bytes(Encoding.PEM))
        return cls.load(folder, passphrase)

    @classmethod
    def load(cls, folder: FederationFolder, passphrase: bytes) -> Self:
        """Unlock the root.

        Raises:
            UsageError: The passphrase is wrong.
            StorageError: A file is missing.
        """
        content = read_secret(folder.authority / "root.pem")
        try:
            key = load_pem_private_key(content, password=passphrase)
        except (ValueError, TypeError):
            raise UsageError(
                "The passphrase does not open the authority's key.",
                advice="It is the one given to 'hansa server init'; a new one cannot be set without it.",
            ) from None
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        pem = read_certificate(folder)
        root = x509.load_pem_x509_certificate(pem.encode())
        return cls(certificate=pem, pin=pin_of(root), _root=root, _key=key, _folder=folder)

    def issue(self, federation: str, site: str, request_pem: str, *, lifetime: timedelta) -> Issued:
        """Certify a site's TLS key under its name.

        Raises:
            PeerRefused: The request is not signed with its own key, or the key is not P-256.
        """
        key = request_key(request_pem)
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "hansa site")])
        certificate = (
            _certificate(name, self._root.subject, key, lifetime)
            .add_extension(
                x509.SubjectAlternativeName([x509.UniformResourceIdentifier(site_uri(federation, site))]), critical=True
            )
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=True)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(digital_signature=True, signs_certificates=False), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        return Issued(
            certificate=certificate.public_bytes(Encoding.PEM).decode(),
            serial=f"{certificate.serial_number:x}",
            expires=certificate.not_valid_after_utc.timestamp(),
        )

    def server_certificate(
        self, host: str, *, lifetime: timedelta, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> tuple[str, bytes]:
        """Return the server's certificate and key as PEM; made anew when less than half of its time is left."""
        certificate_path, key_path = self._folder.server / "server.crt", self._folder.server / "server.pem"
        if certificate_path.exists() and key_path.exists():
            pem = certificate_path.read_bytes()
            current = x509.load_pem_x509_certificate(pem)
            if now() < current.not_valid_after_utc - lifetime / 2 and _names(current) == [_general_name(host)]:
                return pem.decode(), read_secret(key_path)
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "hansa server")])
        certificate = (
            _certificate(subject, self._root.subject, key.public_key(), lifetime)
            .add_extension(x509.SubjectAlternativeName([_general_name(host)]), critical=False)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=True)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        key_path.unlink(missing_ok=True)
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        write_secret(key_path, private)
        pem = certificate.public_bytes(Encoding.PEM)
        write_whole(certificate_path, pem)
        return pem.decode(), private


def read_certificate(folder: FederationFolder) -> str:
    """Return the root certificate as PEM; the key is not needed for it.

    Raises:
        StorageError: It is missing.
    """
    from hansa_common.files import storage  # noqa: PLC0415

    with storage(folder.authority, "read", advice="Restore it from a backup."):
        return (folder.authority / "root.crt").read_text()


def request_key(request_pem: str) -> ec.EllipticCurvePublicKey:
    """Return the key of a certificate request (PKCS #10, RFC 2986) that is signed with it.

    Raises:
        PeerRefused: It is none, is not so signed, or the key is not P-256.
    """
    try:
        request = x509.load_pem_x509_csr(request_pem.encode())
        key = request.public_key()
        is_signed = request.is_signature_valid
    except Exception:  # noqa: BLE001 - whatever the parser makes of hostile bytes, they are no request
        raise PeerRefused("This is no certificate request.", denial=Denial.PROOF) from None
    if not is_signed or not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise PeerRefused("The certificate request is not signed with a P-256 key of its own.", denial=Denial.PROOF)
    return key


def parse_certificate(pem: bytes) -> tuple[x509.Certificate, str]:
    """Return a certificate and its TLS key in hexadecimal digits.

    Raises:
        IdentityError: It is none of this profile.
    """
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        key = certificate.public_key()
    except Exception:  # noqa: BLE001 - see above
        raise IdentityError("This is no certificate.") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise IdentityError("The certificate's key is not P-256.")
    return certificate, tls_public_hex(key)


def _certificate(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, lifetime: timedelta
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - min(_EARLIER, lifetime / 10))  # sites renew at half of the time that this leaves
        .not_valid_after(now + lifetime)
    )


def _usage(*, digital_signature: bool, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _names(certificate: x509.Certificate) -> list[x509.GeneralName]:
    return list(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
