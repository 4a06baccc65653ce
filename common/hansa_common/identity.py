"""A site's keys and the certificate profile that binds them to its name.

A node has three key pairs, made where it runs: Ed25519 to sign (RFC 8032), X25519 to agree on secrets (RFC 7748) and
P-256 for TLS. A certificate names its holder by one URI, ``hansa://<federation>/<site>``, and by nothing else.
"""

import base64
import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Self
from urllib.parse import quote, unquote

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID
from pydantic import Field

from hansa_common.canonical import digest
from hansa_common.errors import IdentityError, StorageError
from hansa_common.files import read_secret, write_secret
from hansa_common.settings import Strict
from hansa_common.signing import PublicKey, public_hex

_SCHEME = "hansa"
_FINGERPRINT_CHARACTERS = 20  # of base32: 100 bits

TlsPublicKey = Annotated[str, Field(pattern=r"^[0-9a-f]{182}$")]
"""A P-256 SubjectPublicKeyInfo: 91 bytes of DER in hexadecimal digits."""


class NodePublicKeys(Strict):
    """The public half of a node's keys."""

    signing: PublicKey
    agreement: PublicKey
    tls: TlsPublicKey


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeKeys:
    """A node's private keys; they never leave the machine they were made on."""

    signing: Ed25519PrivateKey = field(repr=False)
    agreement: X25519PrivateKey = field(repr=False)
    tls: ec.EllipticCurvePrivateKey = field(repr=False)

    @classmethod
    def generate(cls) -> Self:
        """Make new keys from the operating system's randomness."""
        return cls(
            signing=Ed25519PrivateKey.generate(),
            agreement=X25519PrivateKey.generate(),
            tls=ec.generate_private_key(ec.SECP256R1()),
        )

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read the keys that ``save`` wrote.

        Raises:
            StorageError: A file is missing or is no such key.
            IdentityError: A file can be read by others than its owner.
        """
        signing, agreement, tls = (_load(folder / f"{name}.pem") for name in ("signing", "agreement", "tls"))
        if not (
            isinstance(signing, Ed25519PrivateKey)
            and isinstance(agreement, X25519PrivateKey)
            and isinstance(tls, ec.EllipticCurvePrivateKey)
            and isinstance(tls.curve, ec.SECP256R1)
        ):
            raise StorageError(f"{folder} holds other keys than a node's.", advice="Restore it from a backup.")
        return cls(signing=signing, agreement=agreement, tls=tls)

    def save(self, folder: Path) -> None:
        """Write the keys, readable by their owner only.

        Raises:
            StorageError: A file is there already, or cannot be written.
        """
        for name, key in (("signing", self.signing), ("agreement", self.agreement), ("tls", self.tls)):
            write_secret(folder / f"{name}.pem", key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))

    def public(self) -> NodePublicKeys:
        """Return the public halves."""
        return NodePublicKeys(
            signing=public_hex(self.signing),
            agreement=self.agreement.public_key().public_bytes_raw().hex(),
            tls=tls_public_hex(self.tls.public_key()),
        )

    def certificate_request(self) -> str:
        """Return a certificate request (PKCS #10, RFC 2986) for the TLS key, as PEM; the server decides the name."""
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "hansa site")])
        request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(self.tls, hashes.SHA256())
        return request.public_bytes(Encoding.PEM).decode()

    def tls_pem(self) -> bytes:
        """Return the private TLS key as PEM, for the TLS library."""
        return self.tls.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def tls_public_hex(key: ec.EllipticCurvePublicKey) -> str:
    """Return a P-256 public key as the hexadecimal digits of its SubjectPublicKeyInfo."""
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo).hex()


def site_uri(federation: str, site: str) -> str:
    """Return the URI that names a site in its certificate."""
    return f"{_SCHEME}://{quote(federation, safe='')}/{quote(site, safe='')}"


def site_of(certificate: x509.Certificate) -> tuple[str, str]:
    """Return federation and site that a certificate names.

    Raises:
        IdentityError: It is not a certificate of this profile.
    """
    try:
        names = list(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except (x509.ExtensionNotFound, ValueError):  # there is none, or the extensions are malformed
        names = []
    if len(names) == 1 and isinstance(names[0], x509.UniformResourceIdentifier):
        scheme, _, rest = names[0].value.partition("://")
        federation, site = map(unquote, rest.partition("/")[::2])
        if scheme == _SCHEME and federation and site and site_uri(federation, site) == names[0].value:
            return federation, site
    raise IdentityError("The certificate names no site of a federation.")


def pin_of(certificate: x509.Certificate) -> str:
    """Return the SHA-256 of a certificate's SubjectPublicKeyInfo (RFC 7469, section 2.4), in hexadecimal digits."""
    key = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(key).hexdigest()


def fingerprint(value: object) -> str:
    """Return 100 bits of the SHA-256 of a JSON value in five groups of four letters and digits, to read aloud."""
    text = base64.b32encode(bytes.fromhex(digest(value))).decode()[:_FINGERPRINT_CHARACTERS]
    return "-".join(text[start : start + 4] for start in range(0, _FINGERPRINT_CHARACTERS, 4))


def _load(path: Path) -> object:
    try:
        return load_pem_private_key(read_secret(path), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise StorageError(f"{path} holds no private key.", advice="Restore it from a backup.") from None
