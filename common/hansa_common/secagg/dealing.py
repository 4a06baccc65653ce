"""A site's setup for one turn: dealing two secrets out, and checking what others dealt."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from hansa_common.errors import SetupRefused
from hansa_common.secagg.agreement import (
    Directory,
    Shares,
    commit_seed,
    commit_share,
    exchange,
    is_committed,
    is_signed,
    keys_digest,
    open_box,
    public_bytes,
    seal,
    signed,
)
from hansa_common.secagg.messages import BOX_BYTES, KEY_BYTES, NO_SIGNATURE, Announcement, Setup
from hansa_common.secagg.sharing import SECRET_BYTES, Rand, split
from hansa_common.secagg.terms import Terms, Turn


@dataclass(frozen=True, slots=True, kw_only=True)
class Secrets:
    """A setup and the secrets that it deals out; they are never written to a disk."""

    setup: Setup = field(repr=False)
    key: X25519PrivateKey = field(repr=False)
    """``sk_i``"""
    seed: bytes = field(repr=False)
    """``b_i``"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """An announcement that passed every check."""

    turn: Turn
    digest: bytes
    sites: tuple[str, ...]
    agreed: dict[str, bytes] = field(repr=False)
    """X25519 secrets with the other sites."""
    shares: dict[str, Shares] = field(repr=False)
    """This site's shares by dealer, its own among them."""


def deal(
    terms: Terms, turn: Turn, site: str, *, study_keys: Mapping[str, bytes], signing: Ed25519PrivateKey, rand: Rand
) -> Secrets:
    """Draw the secrets of a turn and share them with all sites of the plan.

    Args:
        terms: The plan's terms.
        turn: Round and attempt.
        site: The dealer.
        study_keys: What ``check_keys`` returned.
        signing: The dealer's signing key.
        rand: Source of random bytes.
    """
    key, seed = X25519PrivateKey.from_private_bytes(rand(KEY_BYTES)), rand(SECRET_BYTES)
    of_seed, of_key = (
        split(secret, threshold=terms.threshold, count=terms.n, rand=rand) for secret in (seed, key.private_bytes_raw())
    )
    commitments, boxes = [], []
    for place, holder in enumerate(terms.sites):
        shares = Shares(seed=of_seed[place], key=of_key[place])
        commitments.append(commit_share(turn, "seed", site, holder, shares.seed))
        commitments.append(commit_share(turn, "key", site, holder, shares.key))
        if (holder_key := study_keys.get(holder)) is None:  # revoked: it counts in n, and nobody opens its shares
            boxes.append(rand(BOX_BYTES))
        else:
            boxes.append(seal(turn, dealer=site, holder=holder, holder_key=holder_key, shares=shares, rand=rand))
    unsigned = Setup(
        terms=terms,
        turn=turn,
        site=site,
        threshold=terms.threshold,
        keys_digest=keys_digest(terms, study_keys),
        study_key=study_keys[site],
        public=public_bytes(key),
        seed_commitment=commit_seed(turn, site, seed),
        share_commitments=b"".join(commitments),
        boxes=b"".join(boxes),
        signature=NO_SIGNATURE,
    )
    return Secrets(setup=signed(unsigned, signing), key=key, seed=seed)


def open_announcement(
    announcement: Announcement, site: str, *, secrets: Secrets, study_key: X25519PrivateKey, directory: Directory
) -> Accepted:
    """Check all setups of an announcement and open the boxes for one site.

    Args:
        announcement: ``R_r``.
        site: The reader.
        secrets: The reader's own setup for this turn.
        study_key: The reader's study key.
        directory: The enrolled sites, from the reader's own roster.

    Raises:
        SetupRefused: A setup is badly signed, for other terms or keys, its key that of another site or of low order, or
            the reader's box does not hold what was committed to; ``site`` says whose setup it is.
    """
    owners: dict[bytes, str] = {}
    agreed: dict[str, bytes] = {}
    shares: dict[str, Shares] = {}
    for setup in announcement.setups:
        dealer = setup.site
        if not is_signed(setup, directory):
            raise SetupRefused(f"The setup of '{dealer}' is not signed by an enrolled site.", site=dealer)
        if setup.threshold != setup.terms.threshold or setup.keys_digest != secrets.setup.keys_digest:
            raise SetupRefused(f"'{dealer}' set up with another threshold or other study keys.", site=dealer)
        if (twin := owners.setdefault(setup.public, dealer)) != dealer:
            raise SetupRefused(f"'{dealer}' and '{twin}' show the same key.", site=dealer)
        secret = exchange(secrets.key, setup.public)
        if secret is None:
            raise SetupRefused(f"The key of '{dealer}' is of low order.", site=dealer)
        if dealer != site:
            agreed[dealer] = secret
        shares[dealer] = open_setup(setup, site, study_key)
    turn = announcement.turn
    return Accepted(turn=turn, digest=announcement.digest(), sites=announcement.sites, agreed=agreed, shares=shares)


def open_setup(setup: Setup, site: str, study_key: X25519PrivateKey) -> Shares:
    """Return a site's shares from its box in a setup.

    Raises:
        SetupRefused: The box does not open, or holds other shares than were committed to.
    """
    box = setup.box(setup.terms.index(site))
    shares = open_box(setup.turn, dealer=setup.site, holder=site, holder_key=study_key, box=box)
    if shares is None or not is_committed(setup, site, seed=shares.seed, key=shares.key):
        raise SetupRefused(
            f"The box from '{setup.site}' for '{site}' does not hold what '{setup.site}' committed to.",
            site=setup.site,
            advice="One of the two sites, or the server between them, is at fault.",
        )
    return shares


def unsafe_pack(secrets: Sequence[Secrets], shares: Mapping[str, Shares]) -> bytes:
    """Write secrets and shares down; see ``SiteSession.unsafe_export_secrets``."""
    value = {
        "secrets": [[one.setup.to_bytes().hex(), one.key.private_bytes_raw().hex(), one.seed.hex()] for one in secrets],
        "shares": {site: [both.seed.hex(), both.key.hex()] for site, both in shares.items()},
    }
    return json.dumps(value).encode()


def unsafe_unpack(data: bytes, terms: Terms) -> tuple[list[Secrets], dict[str, Shares]]:
    """Read what ``unsafe_pack`` wrote; it comes from this machine, and nothing is checked."""
    value = json.loads(data)
    secrets = []
    for setup, key, seed in value["secrets"]:
        secrets.append(
            Secrets(
                setup=Setup.from_bytes(bytes.fromhex(setup), terms),
                key=X25519PrivateKey.from_private_bytes(bytes.fromhex(key)),
                seed=bytes.fromhex(seed),
            )
        )
    return secrets, {
        site: Shares(seed=bytes.fromhex(seed), key=bytes.fromhex(key)) for site, (seed, key) in value["shares"].items()
    }
