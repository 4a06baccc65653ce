"""The invitation: one string that lets one site join once, and the proof that a site holds it.

The string has everything a site needs to reach the coordinator and to know that it is the right one: addresses, the
certificate authority, the founder's key and the roster's digest. Its secret never travels: the site proves it with
HMAC-SHA256 (RFC 2104) over a transcript that both ends know.
"""

import base64
import hashlib
import hmac
from typing import Annotated, Literal

from cryptography import x509
from pydantic import Field

from hansa_common.canonical import canonical
from hansa_common.errors import UsageError
from hansa_common.plan_names import SiteName, StudyName
from hansa_common.roster import Hash, SignedBinding, UnixTime
from hansa_common.settings import Strict
from hansa_common.signing import PublicKey

_PREFIX = "hansa1-"
_CHECKSUM = 8  # hexadecimal digits, against a string that was not copied whole
_LONGEST = 10_000  # characters

InvitationId = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
Address = Annotated[str, Field(pattern=r"^[^\s/]{1,255}:[0-9]{1,5}$")]


class Invitation(Strict):
    """What an invitation says."""

    format: Literal[1] = 1
    id: InvitationId
    secret: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$", repr=False)]
    """128 bits."""
    federation: StudyName
    site: SiteName
    enrolment: Address
    address: Address
    """Of the federation port, where certificates are asked for."""
    authority: Annotated[str, Field(max_length=5_000)]
    """Certificate of the coordinator's authority, as PEM: nothing is sent to a server that it did not certify."""
    founder: PublicKey
    roster: Hash
    expires: UnixTime

    def encode(self) -> str:
        """Return it as one string to hand over."""
        content = canonical(self.model_dump(mode="json"))
        return f"{_PREFIX}{base64.urlsafe_b64encode(content).decode().rstrip('=')}-{_checksum(content)}"

    def authority_certificate(self) -> x509.Certificate:
        """Return the authority's certificate.

        Raises:
            UsageError: It is none.
        """
        try:
            return x509.load_pem_x509_certificate(self.authority.encode())
        except ValueError:
            raise UsageError("The invitation holds no certificate.", advice="Ask for a new one.") from None


def read_invitation(text: str) -> Invitation:
    """Read the string that ``encode`` gave.

    Raises:
        UsageError: It is not whole, or is none.
    """
    compact = "".join(text.split())
    body, _, checksum = compact.removeprefix(_PREFIX).rpartition("-")
    try:
        content = base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))
        if compact.startswith(_PREFIX) and len(compact) <= _LONGEST and _checksum(content) == checksum:
            return Invitation.model_validate_json(content)
    except ValueError:
        pass
    raise UsageError("This is no invitation, or not all of it.", advice=f"Copy it whole: it begins with {_PREFIX}.")


def transcript(
    *, invitation: str, nonce: str, authority_pin: str, roster: str, binding: SignedBinding, certificate_request: str
) -> dict[str, str]:
    """Return what a joining site signs and proves: every public value that the enrolment rests on.

    Args:
        invitation: Its id.
        nonce: Drawn by the server for this enrolment.
        authority_pin: SHA-256 of the authority's public key.
        roster: Digest of the roster in the invitation, which the site accepts herewith.
        binding: The node's keys, signed by its organisation.
        certificate_request: PEM.
    """
    return {
        "invitation": invitation,
        "nonce": nonce,
        "authority": authority_pin,
        "roster": roster,
        "binding": hashlib.sha256(canonical(binding.model_dump(mode="json"))).hexdigest(),
        "request": hashlib.sha256(certificate_request.encode()).hexdigest(),
    }


def prove(secret: str, statement: dict[str, str]) -> str:
    """Return the HMAC-SHA256 of a transcript under an invitation's secret, in hexadecimal digits."""
    return hmac.new(bytes.fromhex(secret), canonical(statement), hashlib.sha256).hexdigest()


def is_proof(secret: str, statement: dict[str, str], proof: str) -> bool:
    """Tell in constant time whether a proof was made with this secret."""
    return hmac.compare_digest(prove(secret, statement), proof)


def _checksum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:_CHECKSUM]
