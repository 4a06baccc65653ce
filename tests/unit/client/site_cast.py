"""A coordinator's authority, an organisation and a site's folder that has joined, without a network."""

import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from hansa_client.folder import SiteFolder
from hansa_client.membership import SiteMembership
from hansa_common.identity import NodeKeys, pin_of, site_uri
from hansa_common.plan import StudyPlan
from hansa_common.roster import (
    Binding,
    CoordinatorPins,
    Organisation,
    Roster,
    SignedBinding,
    SignedRoster,
    sign_binding,
    sign_roster,
)
from hansa_common.signing import public_hex, sign
from hansa_common.wire.protocol import CertificateReply, DecideRequest, Decision, Proposal

FEDERATION, SITE = "thorax", "Hospital A"


class Root:
    """A certificate authority."""

    def __init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "root")])
        self.certificate = self._builder(self.key.public_key()).subject_name(self.name).sign(self.key, hashes.SHA256())
        self.pem = self.certificate.public_bytes(Encoding.PEM).decode()

    def _builder(self, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .issuer_name(self.name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=5))
            .not_valid_after(now + timedelta(days=7))
        )

    def issue(self, keys: NodeKeys, *, federation: str = FEDERATION, site: str = SITE) -> CertificateReply:
        """Certify a node's TLS key."""
        name = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(site_uri(federation, site))])
        builder = self._builder(keys.tls.public_key()).subject_name(x509.Name([])).add_extension(name, critical=True)
        certificate = builder.sign(self.key, hashes.SHA256())
        return CertificateReply(
            certificate=certificate.public_bytes(Encoding.PEM).decode(),
            authorities=(self.pem,),
            expires=int(certificate.not_valid_after_utc.timestamp()),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """A site that has joined, and everybody it deals with."""

    folder: SiteFolder
    root: Root
    founder: Ed25519PrivateKey

    def binding(self, site: str = SITE, keys: NodeKeys | None = None) -> SignedBinding:
        """Bind a site's keys, by the founder's organisation."""
        return sign_binding(
            Binding(
                federation=FEDERATION,
                site=site,
                organisation=organisation(self.founder),
                keys=(keys or self.folder.keys()).public(),
                issued_at=1,
            ),
            self.founder,
        )

    def next_roster(self, *members: SignedBinding, key: Ed25519PrivateKey | None = None) -> SignedRoster:
        """Sign the version after the folder's."""
        roster = self.folder.roster().roster.following(members=members, issued_at=2)
        return sign_roster(roster, key or self.founder)

    def decision(self, digest: str, *, approved: bool = True, **changes: Any) -> DecideRequest:
        """Sign an answer with the site's own key; ``changes`` are in what is signed."""
        values: dict[str, Any] = {
            "federation": FEDERATION,
            "site": SITE,
            "study": "small-1",
            "digest": digest,
            "approved": approved,
            "decided_at": 3,
        }
        decision = Decision(**(values | changes))
        signature = sign(self.folder.keys().signing, "decision", decision.model_dump(mode="json"))
        return DecideRequest(decision=decision, signature=signature)


def organisation(key: Ed25519PrivateKey) -> Organisation:
    """Return the founder."""
    return Organisation(name="Founder", key=public_hex(key))


def join(path: Path) -> Joined:
    """Make a folder that has joined; the roster has no members yet."""
    folder, root, founder = SiteFolder(path), Root(), Ed25519PrivateKey.generate()
    folder.create()
    keys = folder.make_keys()
    roster = sign_roster(
        Roster(
            federation=FEDERATION,
            version=1,
            founder=organisation(founder),
            coordinator=CoordinatorPins(certificate_authorities=(pin_of(root.certificate),)),
            issued_at=1,
        ),
        founder,
    )
    membership = SiteMembership(
        federation=FEDERATION,
        site=SITE,
        enrolment="fl.example.org:8442",
        address="fl.example.org:8443",
        founder=public_hex(founder),
        roster=roster.roster.digest(),
    )
    folder.save_membership(membership, roster, root.issue(keys))
    return Joined(folder=folder, root=root, founder=founder)


def propose(plan: StudyPlan, study: str = "small-1", **changes: Any) -> Proposal:
    """Propose a study."""
    values = {"study": study, "plan": plan.approved().model_dump_json(), "digest": plan.digest()}
    return Proposal(**(values | {"proposed_at": int(time.time())} | changes))
