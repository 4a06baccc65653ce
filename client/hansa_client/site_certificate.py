"""Which certificate a site takes for its own: of an authority in the roster, for its name and its key."""

from collections.abc import Sequence
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec

from hansa_common.errors import IdentityError
from hansa_common.identity import pin_of, site_of, tls_public_hex
from hansa_common.roster import Roster
from hansa_common.wire.protocol import CertificateReply

_PEM_END: Final = "-----END CERTIFICATE-----"


def read_certificate(pem: str) -> x509.Certificate:
    """Parse PEM.

    Raises:
        IdentityError: It is no certificate.
    """
    try:
        return x509.load_pem_x509_certificate(pem.encode())
    except ValueError:
        raise IdentityError("This is no certificate.") from None


def read_authorities(text: str) -> dict[str, str]:
    """Return the certificates of a PEM file, each by its pin.

    Raises:
        IdentityError: One is none.
    """
    pems = [f"{part.lstrip()}{_PEM_END}\n" for part in text.split(_PEM_END)[:-1]]
    return {pin_of(read_certificate(pem)): pem for pem in pems}


def merge_authorities(known: dict[str, str], pems: Sequence[str], roster: Roster) -> dict[str, str]:
    """Return the authorities' certificates that a site knows, by their pins; the roster says which of them count.

    Args:
        known: Those that it has.
        pems: Those that the coordinator shows.
        roster: The version that the site is about to have, or has.

    Raises:
        IdentityError: One is not in this roster, or of those in it none is known.
    """
    pins = roster.coordinator.certificate_authorities
    new = read_authorities("".join(pems))
    if not set(new) <= set(pins):
        raise IdentityError(
            "The coordinator names an authority that is not in the roster.", advice="Ask the founder about it."
        )
    if not set(pins) & set(known | new):
        raise IdentityError("The coordinator does not show the certificate of an authority in the roster.")
    return known | new


def issuer_of(pem: str, authorities: Sequence[str]) -> str | None:
    """Return the pin of the authority that issued a certificate; ``None`` where it is none of these.

    Raises:
        IdentityError: Something of it is no certificate.
    """
    certificate = read_certificate(pem)
    known = map(read_certificate, authorities)
    return next((pin_of(authority) for authority in known if _is_issued_by(certificate, authority)), None)


def check_certificate(reply: CertificateReply, roster: Roster, *, site: str, tls_key: str) -> None:
    """Return if a certificate is this site's, and every authority beside it one that the founder signed for.

    Raises:
        IdentityError: It is for another name or key, or of another authority.
    """
    certificate = read_certificate(reply.certificate)
    authorities = [read_certificate(pem) for pem in reply.authorities]
    if any(pin_of(authority) not in roster.coordinator.certificate_authorities for authority in authorities):
        raise IdentityError(
            "The coordinator names an authority that is not in the roster.", advice="Ask the founder about it."
        )
    if not any(_is_issued_by(certificate, authority) for authority in authorities):
        raise IdentityError("The certificate is not of the coordinator's authority.")
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or tls_public_hex(key) != tls_key:
        raise IdentityError("The certificate is for another key than this site's.")
    if site_of(certificate) != (roster.federation, site):
        raise IdentityError("The certificate is for another site.")


def _is_issued_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True
