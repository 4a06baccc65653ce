"""The coordinator's certificate authority: it says which key speaks TLS for which name, and admits nobody.

Profile (RFC 5280): P-256 throughout; a site's certificate names one URI and may only be a client's, the server's names
its host and may only be a server's. The root key lies encrypted and is in memory while the server runs.

A root that replaces another has a second certificate, by the one before (a cross-certificate, RFC 5280, section 3.2).
The server shows it beside its own, so a site that was away while the root changed still knows the server, and asks it
for the rosters it missed. Nothing else rests on it: which root a site trusts is in the roster.
"""

import ipaddress
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
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
from hansa_common.files import read_secret, storage, sync_folder, write_secret, write_whole
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
        chain: PEM of its certificates by the root before, and so on back to the first; empty for the first.
    """

    certificate: str
    pin: str
    chain: str
    _root: x509.Certificate = field(repr=False)
    _key: ec.EllipticCurvePrivateKey = field(repr=False)
    _folder: FederationFolder = field(repr=False)

    @classmethod
    def create(
        cls, folder: FederationFolder, federation: str, passphrase: bytes, *, before: "Authority | None" = None
    ) -> Self:
        """Make a new root.

        Args:
            folder: The federation's.
            federation: Its name.
            passphrase: Encrypts the key.
            before: The root that it is to replace.

        Raises:
            UsageError: The passphrase is empty.
            StorageError: There is one already, or the disk fails.
        """
        if not passphrase:
            raise UsageError("The passphrase is empty.", advice="The root key is never stored unencrypted.")
        number = count_roots(folder) + 1 if before else 1
        paths = _Paths(folder, number)
        key = ec.generate_private_key(ec.SECP256R1())
        common = f"{federation} coordinator" + (f" {secrets.token_hex(4)}" if before else "")  # a path is found by name
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])
        chain = ""
        if before is not None:
            crossed = _root_certificate(name, before.subject, key.public_key(), before._key)  # noqa: SLF001 - its own class
            chain = crossed.public_bytes(Encoding.PEM).decode() + before.chain
            with storage(paths.key, "write"):  # a key without a certificate was left by a process that was killed
                paths.key.unlink(missing_ok=True)
        root = _root_certificate(name, name, key.public_key(), key)
        encrypted = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(passphrase))
        write_secret(paths.key, encrypted)
        write_whole(paths.chain, chain.encode())
        write_whole(paths.certificate, root.public_bytes(Encoding.PEM))  # the last: with it there is this root
        return cls.load(folder, passphrase, number=number)

    @classmethod
    def load(cls, folder: FederationFolder, passphrase: bytes, *, number: int = 1) -> Self:
        """Unlock a root, by its number in the order in which they were made.

        Raises:
            UsageError: The passphrase is wrong.
            StorageError: A file is missing.
        """
        paths = _Paths(folder, number)
        content = read_secret(paths.key)
        try:
            key = load_pem_private_key(content, password=passphrase)
        except (ValueError, TypeError):
            raise UsageError(
                "The passphrase does not open the authority's key.",
                advice="It is the one given to 'hansa server init'; a new one cannot be set without it.",
            ) from None
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        pem = read_certificate(folder, number=number)
        with storage(paths.chain, "read", advice="Restore it from a backup."):
            chain = paths.chain.read_text() if number > 1 else ""
        root = x509.load_pem_x509_certificate(pem.encode())
        return cls(certificate=pem, pin=pin_of(root), chain=chain, _root=root, _key=key, _folder=folder)

    @property
    def subject(self) -> x509.Name:
        """The root's name."""
        return self._root.subject

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
        """Return the server's certificate and key as PEM; made anew when less than half of its time is left.

        Behind the certificate come this root's by the roots before.
        """
        certificate_path, key_path = self._folder.server / "server.crt", self._folder.server / "server.pem"
        if certificate_path.exists() and key_path.exists():
            pem, private = certificate_path.read_bytes(), read_secret(key_path)
            current = x509.load_pem_x509_certificate(pem)
            if (
                now() < current.not_valid_after_utc - lifetime / 2
                and _names(current) == [_general_name(host)]
                and current.issuer == self._root.subject
                and _is_key_of(private, current)  # a process may have been killed between the two files
            ):
                return pem.decode() + self.chain, private
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
        return pem.decode() + self.chain, private


class _Paths:
    """The files of one root; the first has no number."""

    def __init__(self, folder: FederationFolder, number: int) -> None:
        stem = "root" if number == 1 else f"root-{number}"
        self.key = folder.authority / f"{stem}.pem"
        self.certificate = folder.authority / f"{stem}.crt"
        self.chain = folder.authority / f"{stem}.chain.crt"


class Authorities:
    """The roots of a federation's folder, in the order in which they were made; those that were retired have no key.

    Args:
        folder: The federation's.
        passphrase: Of the keys; empty where nothing is certified.
    """

    def __init__(self, folder: FederationFolder, passphrase: bytes = b"") -> None:
        self._folder = folder
        self._passphrase = passphrase
        self._unlocked: dict[str, Authority] = {}

    @property
    def can_certify(self) -> bool:
        """There is a passphrase."""
        return bool(self._passphrase)

    def certificates(self) -> dict[str, str]:
        """Return each root's certificate as PEM, by its pin.

        Raises:
            StorageError: One is missing.
        """
        return {_pin(pem): pem for pem in map(self._pem, range(1, count_roots(self._folder) + 1))}

    def _pem(self, number: int) -> str:
        return read_certificate(self._folder, number=number)

    def path_of(self, pin: str) -> Path:
        """Return the file of a root's certificate."""
        return _Paths(self._folder, self._number(pin)).certificate

    def _number(self, pin: str) -> int:
        pins = list(self.certificates())
        if pin not in pins:
            raise UsageError(
                "The roster names an authority that is not in this folder.",
                advice="It was made elsewhere, or after the backup that this folder was restored from.",
            )
        return pins.index(pin) + 1

    def unlock(self, pin: str) -> Authority:
        """Return a root with its key.

        Raises:
            UsageError: There is no such root, no passphrase, or it is wrong.
            StorageError: The key is missing, for example because the root was retired.
        """
        if not self._passphrase:
            raise UsageError("This needs the authority's key.", advice="Give its passphrase.")
        if pin not in self._unlocked:
            self._unlocked[pin] = Authority.load(self._folder, self._passphrase, number=self._number(pin))
        return self._unlocked[pin]

    def create(self, federation: str, *, after: str) -> Authority:
        """Make the root that is to replace another.

        Raises:
            UsageError: The passphrase does not open that one's key.
            StorageError: The disk fails.
        """
        return Authority.create(self._folder, federation, self._passphrase, before=self.unlock(after))

    def discard_key(self, pin: str) -> None:
        """Delete the key of a root that was retired; its certificate stays, to tell sites that still show its own.

        Raises:
            StorageError: The disk fails; run it again.
        """
        self._unlocked.pop(pin, None)
        path = _Paths(self._folder, self._number(pin)).key
        with storage(path, "delete", advice="Run it again once the disk is mended."):
            path.unlink(missing_ok=True)
            sync_folder(path.parent)

    def has_key(self, pin: str) -> bool:
        """Tell whether a root's key is there."""
        return _Paths(self._folder, self._number(pin)).key.exists()


def count_roots(folder: FederationFolder) -> int:
    """Return how many roots were made."""
    number = 0
    while _Paths(folder, number + 1).certificate.exists():
        number += 1
    return number


def read_certificate(folder: FederationFolder, *, number: int = 1) -> str:
    """Return a root's certificate as PEM; the key is not needed for it.

    Raises:
        StorageError: It is missing.
    """
    with storage(folder.authority, "read", advice="Restore it from a backup."):
        return _Paths(folder, number).certificate.read_text()


@lru_cache(maxsize=16)
def _pin(pem: str) -> str:
    return pin_of(x509.load_pem_x509_certificate(pem.encode()))


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


def _root_certificate(
    name: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, issuer_key: ec.EllipticCurvePrivateKey
) -> x509.Certificate:
    return (
        _certificate(name, issuer, key, timedelta(days=365 * _ROOT_YEARS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)  # later roots follow upon it
        .add_extension(_usage(digital_signature=False, signs_certificates=True), critical=True)
        .sign(issuer_key, hashes.SHA256())
    )


def _is_key_of(private: bytes, certificate: x509.Certificate) -> bool:
    key = load_pem_private_key(private, password=None)
    return key.public_key() == certificate.public_key()


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
