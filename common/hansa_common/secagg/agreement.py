"""Keys and boxes between two sites: who may take part, what is agreed on, what is committed to.

HKDF with SHA-256 (RFC 5869), X25519 (RFC 7748), ChaCha20-Poly1305 (RFC 8439), Ed25519 (RFC 8032). Every ``info`` and
every commitment names its purpose, plan, round, attempt and sites (``Turn.context``), so that nothing made for one
place holds in another.
"""

import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from hansa_common.errors import IdentityError, KeyRefused, MaskingRefused, NotConfirmed, TooFewSites
from hansa_common.secagg.masking import KEY_BYTES as STREAM_KEY_BYTES
from hansa_common.secagg.masking import MaskKeys
from hansa_common.secagg.messages import KEY_BYTES, Confirmation, Setup, Signed, StudyKey
from hansa_common.secagg.sharing import SHARE_BYTES, Rand
from hansa_common.secagg.terms import Terms, Turn
from hansa_common.signing import sign, verify

Directory = Mapping[str, str]
"""Ed25519 public keys, in hexadecimal digits, of the plan's sites that are enrolled, by name."""

_NONCE = bytes(12)  # each box has a key of its own
_FIELD = (1 << 255) - 19  # of Curve25519
_SignedMessage = TypeVar("_SignedMessage", bound=Signed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """One site's shares of a dealer's two secrets."""

    seed: bytes = field(repr=False)
    key: bytes = field(repr=False)


def signed(message: _SignedMessage, key: Ed25519PrivateKey) -> _SignedMessage:
    """Return a message with its signature."""
    return replace(message, signature=bytes.fromhex(sign(key, message.label, message.statement())))


def is_signed(message: Signed, directory: Directory) -> bool:
    """Tell whether a message is signed by the enrolled site that it names."""
    if message.site not in directory:
        return False
    try:
        verify(directory[message.site], message.label, message.statement(), message.signature.hex())
    except IdentityError:
        return False
    return True


def public_bytes(key: X25519PrivateKey) -> bytes:
    """Return the public half, 32 bytes."""
    return key.public_key().public_bytes_raw()


def exchange(key: X25519PrivateKey, public: bytes) -> bytes | None:
    """Return the shared secret, or none where ``public`` is of low order or not written in the one way.

    Curve25519 gives values of 2^255 - 19 and more, and a set highest bit, the meaning of another value: two keys that
    look different could be the same.
    """
    if int.from_bytes(public, "little") >= _FIELD:
        return None
    try:
        return key.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError:
        return None


def check_keys(keys: Sequence[StudyKey], terms: Terms, directory: Directory) -> dict[str, bytes]:
    """Return the study keys of the sites that take part, by name in ascending order.

    A site of the plan without a key, which is not enrolled any more or did not approve the study, counts in ``n`` and
    in the threshold as one that has dropped out.

    Args:
        keys: Of those sites, in any order.
        terms: The plan's terms.
        directory: The enrolled sites, from the reader's own roster.

    Raises:
        KeyRefused: A key is of a site that is not enrolled, badly signed, or not a key; ``site`` says whose.
        TooFewSites: Fewer sites are enrolled, or have a key, than a sum needs.
    """
    enrolled = sum(site in directory for site in terms.sites)
    if enrolled < terms.required:
        raise TooFewSites(f"{enrolled} of the plan's {terms.n} sites are enrolled; {terms.required} are needed.")
    found: dict[str, bytes] = {}
    probe = X25519PrivateKey.generate()
    for key in keys:
        if key.site in found or key.terms != terms:
            raise KeyRefused(f"The study key of '{key.site}' is there twice or of another plan.", site=key.site)
        if not is_signed(key, directory):
            raise KeyRefused(
                f"The study key of '{key.site}' is not signed by an enrolled site of that name.",
                site=key.site,
                advice="Compare its fingerprint with the organisation's; the server may have made it up.",
            )
        if exchange(probe, key.key) is None or key.key in found.values():
            raise KeyRefused(f"The study key of '{key.site}' is no key, or another site's.", site=key.site)
        found[key.site] = key.key
    if len(found) < terms.required:
        raise TooFewSites(f"{len(found)} of the plan's {terms.n} sites have a key; {terms.required} are needed.")
    return {site: found[site] for site in terms.sites if site in found}


def keys_digest(terms: Terms, keys: Mapping[str, bytes]) -> bytes:
    """Return the hash of a plan's study keys: two sites that dealt for other keys notice."""
    turn = Turn(plan_digest=terms.plan_digest, round=0, attempt=1)
    return turn.digest("keys", *(part for site in sorted(keys) for part in (site, keys[site])))


def check_confirmations(own: Confirmation, confirmations: Sequence[Confirmation], directory: Directory) -> None:
    """Return if enough distinct survivors signed what this site signed itself.

    Raises:
        NotConfirmed: Too few, one that is no survivor or is there twice, one that signed something else, or a signature
            that does not hold; ``site`` says whose.
    """
    seen: set[str] = set()
    for one in confirmations:
        if one.site in seen or one.site not in own.survivors:
            raise NotConfirmed(f"'{one.site}' is no survivor, or is there twice.", site=one.site)
        if one.subject() != own.subject():
            raise NotConfirmed(
                f"'{one.site}' signed another set of survivors, announcement or model.",
                site=one.site,
                advice="The server may be telling the sites different stories; compare with that site.",
            )
        if not is_signed(one, directory):
            raise NotConfirmed(f"The signature of '{one.site}' does not hold.", site=one.site)
        seen.add(one.site)
    if len(seen) < own.terms.threshold:
        raise NotConfirmed(f"{len(seen)} sites signed the set of survivors; {own.terms.threshold} are needed.")


def seal(turn: Turn, *, dealer: str, holder: str, holder_key: bytes, shares: Shares, rand: Rand) -> bytes:
    """Return a box: a throw-away public key, then both shares, encrypted for the holder's study key.

    Raises:
        MaskingRefused: The holder's key is of low order.
    """
    throwaway = X25519PrivateKey.from_private_bytes(rand(KEY_BYTES))
    secret = exchange(throwaway, holder_key)
    if secret is None:
        raise MaskingRefused(f"The study key of '{holder}' is no key.", site=holder)
    public = public_bytes(throwaway)
    key = _derive(secret, turn.context("box", dealer, holder, public, holder_key), STREAM_KEY_BYTES)
    return public + ChaCha20Poly1305(key).encrypt(_NONCE, shares.seed + shares.key, None)


def open_box(turn: Turn, *, dealer: str, holder: str, holder_key: X25519PrivateKey, box: bytes) -> Shares | None:
    """Return the shares in a box, or none where it is not one from this dealer to this holder in this turn."""
    public = box[:KEY_BYTES]
    secret = exchange(holder_key, public)
    if secret is None:
        return None
    key = _derive(secret, turn.context("box", dealer, holder, public, public_bytes(holder_key)), STREAM_KEY_BYTES)
    try:
        content = ChaCha20Poly1305(key).decrypt(_NONCE, box[KEY_BYTES:], None)
    except InvalidTag:
        return None
    return Shares(seed=content[:SHARE_BYTES], key=content[SHARE_BYTES:])


def commit_share(turn: Turn, secret: str, dealer: str, holder: str, share: bytes) -> bytes:
    """Return the commitment to a holder's share of a dealer's ``seed`` or ``key``; a share has 256 bits to hide it."""
    return turn.digest(f"share-of-{secret}", dealer, holder, share)


def commit_seed(turn: Turn, dealer: str, seed: bytes) -> bytes:
    """Return the commitment to a dealer's seed. Its other secret has one: the public key."""
    return turn.digest("seed", dealer, seed)


def is_committed(setup: Setup, holder: str, *, seed: bytes | None = None, key: bytes | None = None) -> bool:
    """Tell whether a holder's shares are those that the dealer committed to."""
    turn, of_seed, of_key = setup.turn, *setup.commitments(setup.terms.index(holder))
    good = True
    if seed is not None:
        good &= hmac.compare_digest(commit_share(turn, "seed", setup.site, holder, seed), of_seed)
    if key is not None:
        good &= hmac.compare_digest(commit_share(turn, "key", setup.site, holder, key), of_key)
    return good


def pair_keys(turn: Turn, one: str, other: str, *, secret: bytes, announcement: bytes, model: bytes) -> MaskKeys:
    """Return the keys of the mask that two sites share.

    Args:
        turn: Round and attempt.
        one: A site.
        other: The other one; their order does not matter.
        secret: Their X25519 secret.
        announcement: ``H(R_r)``.
        model: SHA-256 of the model both trained from.
    """
    lower, higher = sorted((one, other))
    return _mask_keys(secret, turn.context("pair", lower, higher, announcement, model))


def self_keys(turn: Turn, site: str, *, seed: bytes, announcement: bytes, model: bytes) -> MaskKeys:
    """Return the keys of a site's own mask."""
    return _mask_keys(seed, turn.context("self", site, announcement, model))


def _mask_keys(secret: bytes, info: bytes) -> MaskKeys:
    derived = _derive(secret, info, 2 * STREAM_KEY_BYTES)
    return MaskKeys(vector=derived[:STREAM_KEY_BYTES], counts=derived[STREAM_KEY_BYTES:])


def _derive(secret: bytes, info: bytes, length: int) -> bytes:
    return HKDF(algorithm=SHA256(), length=length, salt=None, info=info).derive(secret)
