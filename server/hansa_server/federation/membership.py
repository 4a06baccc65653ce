"""Who belongs to the federation: invitations, enrolment, the roster in force, certificates, revocation, counters.

A certificate gets a site through TLS and no further: each call asks ``authorise``, which holds it against the roster
that the founder signed and against what the operator revoked. No network is known here; time is an argument.
"""

import hashlib
import secrets
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from functools import lru_cache
from typing import Final

from sqlalchemy import Engine, delete, insert, select, update
from sqlalchemy.dialects.sqlite import insert as upsert

from hansa_common.audit import Journal
from hansa_common.canonical import digest
from hansa_common.errors import HansaError, IdentityError, PeerRefused, UsageError
from hansa_common.identity import site_of, tls_public_hex
from hansa_common.invitation import Invitation, is_proof, transcript
from hansa_common.roster import Binding, Organisation, SignedBinding, SignedRoster
from hansa_common.signing import verify
from hansa_common.wire.protocol import (
    AttachRequest,
    BeginReply,
    CertificateReply,
    Denial,
    EnrolRequest,
    LeaveRequest,
    RecoverRequest,
)
from hansa_server.federation.authority import Authorities, parse_certificate, request_key
from hansa_server.federation.certification import Certification
from hansa_server.federation.database import certificates, invitations, rosters, sites, transaction
from hansa_server.federation.nonces import Nonces
from hansa_server.federation.settings import ServerSettings

_INVITE_AGAIN: Final = "Ask the coordinator's operator for a new one: hansa server invite SITE"
_SHUT_OUT: Final = {
    "applicant": (Denial.NOT_A_MEMBER, "The founder has not admitted this site yet."),
    "revoked": (Denial.REVOKED, "This site's membership was revoked."),
    "left": (Denial.REVOKED, "This site has left the federation."),
    "frozen": (Denial.FROZEN, "This site is frozen: two sessions claimed its identity."),
}


class Membership:
    """The federation's members.

    Args:
        engine: The database.
        authorities: Certify TLS keys, with the passphrase.
        settings: Of the folder.
        journal: The coordinator's record.
        founder: Who signs rosters.
        clock: Unix time in seconds.
    """

    def __init__(
        self,
        *,
        engine: Engine,
        authorities: Authorities,
        settings: ServerSettings,
        journal: Journal,
        founder: Organisation | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._engine = engine
        self._authorities = authorities
        self.certification = Certification(
            engine=engine,
            authorities=authorities,
            in_force=lambda: self._roster,
            after=self.rosters_after,
            sites=lambda: {name for name, status in self._statuses.items() if status in ("member", "frozen")},
            clock=clock,
        )
        self._settings = settings
        self._journal = journal
        self._founder = founder
        self._clock = clock
        self._nonces = Nonces(clock)
        self._lock = threading.Lock()
        self._roster: SignedRoster | None = None
        self._statuses: dict[str, str] = {}
        self._revoked: set[str] = set()
        self._known_serials: dict[str, str] = {}  # and the pin of the authority that issued it
        self._load()

    def _load(self) -> None:
        """Read what every call needs into memory; each change of the database reads it again."""
        with self._engine.connect() as connection:
            newest = connection.execute(select(rosters.c.signed).order_by(rosters.c.version.desc()).limit(1)).scalar()
            self._statuses = {row.name: row.status for row in connection.execute(select(sites))}
            found = connection.execute(select(certificates)).all()
        self._roster = _read_roster(newest) if newest else None
        first = self.certification.first_pin()
        self._known_serials = {row.serial: row.authority or first for row in found}
        self._revoked = {row.serial for row in found if row.revoked}

    # --- the roster ---

    def roster(self) -> SignedRoster:
        """Return the version in force.

        Raises:
            UsageError: There is none yet.
        """
        if self._roster is None:
            raise UsageError(
                "No roster is in force.", advice="The founder signs the first one; then: hansa server roster FILE"
            )
        return self._roster

    def rosters_after(self, version: int, *, most: int = -1) -> list[SignedRoster]:
        """Return the versions after this one, in ascending order; with ``most`` not more than so many."""
        newer = select(rosters.c.signed).where(rosters.c.version > version).order_by(rosters.c.version).limit(most)
        with self._engine.connect() as connection:
            return [_read_roster(signed) for signed in connection.execute(newer).scalars()]

    def install_roster(self, signed: SignedRoster, *, force: bool = False) -> None:
        """Put a new version into force; a site that it leaves out is revoked.

        A site that was revoked or left, and that the roster still has, stays out: also once it enrolled with new keys,
        until a roster binds these.

        Raises:
            IdentityError: The founder did not sign it, or it does not follow upon the one in force.
            UsageError: It is of another federation or coordinator; or, without ``force``, it drops an authority that
                certified sites which have nothing newer.
        """
        roster = signed.roster
        if self._roster is None:
            if self._founder is None or roster.version != 1:
                raise IdentityError(
                    "The first roster has version 1.", advice="Sign the request of 'hansa server init'."
                )
            signed.verify(self._founder.key)
        else:
            signed.verify_successor(self._roster)
        if roster.federation != self._settings.name:
            raise UsageError("The roster is of another federation.", advice="Check the file.")
        self.certification.check(roster, force=force)
        members = {member.binding.site: member for member in roster.members}
        with self._lock, transaction(self._engine) as connection:
            connection.execute(insert(rosters).values(version=roster.version, signed=signed.model_dump_json()))
            for name, member in members.items():
                row = {"name": name, "status": "member", "binding": member.model_dump_json()}
                connection.execute(
                    upsert(sites)
                    .values(row)
                    .on_conflict_do_update(
                        index_elements=["name"],
                        set_={"binding": row["binding"], "status": "member"},
                        where=(sites.c.status == "member")
                        | ((sites.c.status == "applicant") & (sites.c.binding == row["binding"])),
                    )
                )
            connection.execute(
                update(sites).where(sites.c.status == "member", sites.c.name.not_in(members)).values(status="revoked")
            )
        self._load()
        pins = " ".join(roster.coordinator.certificate_authorities)
        self._journal.append("roster-installed", version=roster.version, digest=roster.digest(), authorities=pins)

    def members(self) -> set[str]:
        """Return the sites that may take part now."""
        bound = {member.binding.site for member in self._roster.roster.members} if self._roster else set()
        return {name for name, status in self._statuses.items() if status == "member" and name in bound}

    def signing_key(self, site: str) -> str:
        """Return a member's signing key.

        Raises:
            PeerRefused: It is no member.
        """
        return self._bound(site).keys.signing

    def _bound(self, site: str) -> Binding:
        binding = self._roster.roster.member(site) if self._roster else None
        if binding is None:
            raise PeerRefused("This site is not in the roster.", denial=Denial.NOT_A_MEMBER)
        return binding

    # --- joining ---

    def invite(self, site: str) -> Invitation:
        """Make an invitation for one site, good once.

        Raises:
            UsageError: No roster is in force, or the site is a member.
        """
        roster = self.roster()
        if self._statuses.get(site) in ("member", "frozen"):
            raise UsageError(f"{site} is a member already.", advice="Revoke it first if it shall join with new keys.")
        expires = int(self._clock() + self._settings.invitation_hours * 3_600)
        invitation = Invitation(
            id=secrets.token_hex(16),
            secret=secrets.token_hex(16),
            federation=self._settings.name,
            site=site,
            enrolment=self._settings.enrolment_address,
            address=self._settings.federation_address,
            authority=self._authorities.certificates()[self.certification.pins()[-1]],
            founder=roster.roster.founder.key,
            roster=roster.roster.digest(),
            expires=expires,
        )
        row = {"id": invitation.id, "site": site, "secret": invitation.secret, "roster": invitation.roster}
        with self._lock, transaction(self._engine) as connection:
            connection.execute(insert(invitations).values(row | {"expires": float(expires)}))
        self._journal.append("invited", site=site, invitation=invitation.id)
        return invitation

    def begin(self, protocol: int) -> BeginReply:
        """Draw a nonce.

        Raises:
            PeerRefused: Too many are open.
        """
        now = self._clock()
        return BeginReply(nonce=self._nonces.draw(), server_time=now, protocol=protocol, roster=self.roster())

    def enrol(self, request: EnrolRequest) -> CertificateReply:
        """Let a site in that holds an invitation and a binding of its organisation; the same keys again are welcome.

        Raises:
            PeerRefused: The invitation is unknown, used by others or expired, or a proof does not hold.
        """
        self._nonces.spend(request.nonce)
        with self._engine.connect() as connection:
            row = connection.execute(select(invitations).where(invitations.c.id == request.invitation)).first()
        if row is None:
            raise PeerRefused("This invitation is unknown here.", denial=Denial.INVITATION)
        self._check_enrolment(request, row.secret, row.site, row.roster)
        binding = request.binding.binding
        used_by = digest(binding.model_dump(mode="json"))
        with self._lock, transaction(self._engine) as connection:
            current = connection.execute(select(invitations).where(invitations.c.id == request.invitation)).one()
            if current.used_by not in (None, used_by):
                self._journal.append("invitation-reused", site=row.site, invitation=row.id)
                problem = "This invitation was used before, with other keys."
                raise PeerRefused(problem, denial=Denial.INVITATION, advice=_INVITE_AGAIN)
            if current.used_by is None and self._clock() >= current.expires:
                raise PeerRefused("This invitation has expired.", denial=Denial.INVITATION, advice=_INVITE_AGAIN)
            if current.used_by is None:
                connection.execute(
                    update(invitations).where(invitations.c.id == request.invitation).values(used_by=used_by)
                )
                values = {"name": row.site, "binding": request.binding.model_dump_json(), "status": "applicant"}
                connection.execute(
                    upsert(sites)
                    .values(values)
                    .on_conflict_do_update(index_elements=["name"], set_=values | {"counter": 0})
                )
        reply = self._issue(row.site, request.certificate_request, 0)
        self._journal.append("enrolled", site=row.site, fingerprint=binding.fingerprint())
        return reply

    def _check_enrolment(self, request: EnrolRequest, secret: str, site: str, roster: str) -> None:
        """Hold every claim of a joining site against what the server knows itself."""
        binding = request.binding.binding
        statements = (
            transcript(
                invitation=request.invitation,
                nonce=request.nonce,
                authority_pin=pin,
                roster=roster,
                binding=request.binding,
                certificate_request=request.certificate_request,
            )
            for pin in self.certification.pins()  # an invitation may be older than the newest of them
        )
        statement = next((made for made in statements if is_proof(secret, made, request.proof)), None)
        if statement is None:
            raise PeerRefused("The proof of the invitation does not hold.", denial=Denial.PROOF)
        try:
            request.binding.verify()
            verify(binding.keys.signing, "acceptance", statement, request.acceptance)
        except IdentityError as error:
            raise PeerRefused(error.message, denial=Denial.PROOF) from None
        if (binding.site, binding.federation, request.roster) != (site, self._settings.name, roster):
            raise PeerRefused("The binding is for another site or federation.", denial=Denial.PROOF)
        if tls_public_hex(request_key(request.certificate_request)) != binding.keys.tls:
            raise PeerRefused("The certificate request is for another key than the bound one.", denial=Denial.PROOF)

    def recover(self, request: RecoverRequest) -> CertificateReply:
        """Renew an expired certificate with the node key that the roster binds.

        Raises:
            PeerRefused: The site is no member, or the signature does not hold.
        """
        self._nonces.spend(request.nonce)
        self._check_status(request.site)
        statement = {
            "nonce": request.nonce,
            "site": request.site,
            "request": hashlib.sha256(request.certificate_request.encode()).hexdigest(),
        }
        try:
            verify(self.signing_key(request.site), "recovery", statement, request.signature)
        except IdentityError as error:
            raise PeerRefused(error.message, denial=Denial.PROOF) from None
        return self.renew(request.site, request.certificate_request, request.roster_version)

    def renew(self, site: str, certificate_request: str, roster_version: int = 0) -> CertificateReply:
        """Certify a member's TLS key again, by an authority that the roster which it has pins.

        Raises:
            PeerRefused: It is no member, the request is for another key, or its roster is too old.
        """
        self._check_status(site)
        if tls_public_hex(request_key(certificate_request)) != self._bound(site).keys.tls:
            raise PeerRefused("The certificate request is for another key than the bound one.", denial=Denial.PROOF)
        reply = self._issue(site, certificate_request, roster_version)
        self._journal.append("certificate-renewed", site=site)
        return reply

    def _issue(self, site: str, certificate_request: str, roster_version: int) -> CertificateReply:
        lifetime = timedelta(hours=self._settings.certificate_hours)
        authority = self.certification.certifier(roster_version)
        issued = authority.issue(self._settings.name, site, certificate_request, lifetime=lifetime)
        with self._lock, transaction(self._engine) as connection:
            connection.execute(delete(certificates).where(certificates.c.expires < self._clock() - 86_400))
            row = {"serial": issued.serial, "site": site, "expires": issued.expires, "authority": authority.pin}
            connection.execute(insert(certificates).values(row))
        self._load()
        return CertificateReply(
            certificate=issued.certificate, authorities=(authority.certificate,), expires=int(issued.expires)
        )

    # --- every call ---

    def authorise(self, certificate_pem: bytes) -> str:
        """Return the site that shows a certificate, if it is a member now, with this very key.

        Raises:
            PeerRefused: It is not; the denial says why.
        """
        try:
            federation, site, serial, key, expires = _read_certificate(certificate_pem)
        except HansaError:
            raise PeerRefused("This is no certificate of a site.", denial=Denial.UNKNOWN) from None
        if federation != self._settings.name or serial not in self._known_serials or self._clock() >= expires:
            raise PeerRefused("This certificate is unknown here, or expired.", denial=Denial.UNKNOWN)
        if self._known_serials[serial] not in self.certification.pins():
            raise PeerRefused("This certificate is of an authority that was retired.", denial=Denial.UNKNOWN)
        if serial in self._revoked:
            raise PeerRefused("This certificate was revoked.", denial=Denial.REVOKED)
        self._check_status(site)
        if self._bound(site).keys.tls != key:
            raise PeerRefused("The roster binds another key to this site.", denial=Denial.NOT_A_MEMBER)
        return site

    def _check_status(self, site: str) -> None:
        status = self._statuses.get(site)
        if status is None:
            raise PeerRefused("This site is unknown here.", denial=Denial.NOT_A_MEMBER)
        if status in _SHUT_OUT:
            denial, message = _SHUT_OUT[status]
            raise PeerRefused(message, denial=denial, advice="Its operator and the coordinator's talk to each other.")
        self._bound(site)

    def attach(self, site: str, request: AttachRequest) -> None:
        """Admit a session whose counter is higher than any before; otherwise freeze the site.

        The lower counter is the one that counts once the site is let back in: a copy may have shown one that its owner
        never gets to, and a site restored from a backup shows an old one.

        Raises:
            PeerRefused: The signature does not hold, or the counter was used: somebody has a copy of the keys.
        """
        statement = {"federation": self._settings.name, "site": site, "counter": request.counter}
        try:
            verify(self.signing_key(site), "session", statement, request.signature)
        except IdentityError as error:
            raise PeerRefused(error.message, denial=Denial.PROOF) from None
        with self._lock, transaction(self._engine) as connection:
            before = connection.execute(select(sites.c.counter).where(sites.c.name == site)).scalar_one()
            values: dict[str, object] = {"counter": request.counter}
            if request.counter <= before:
                values["status"] = "frozen"
            connection.execute(update(sites).where(sites.c.name == site).values(values))
        if request.counter <= before:
            self._load()
            self._journal.append("site-frozen", site=site, counter=request.counter, before=before)
            denial, message = _SHUT_OUT["frozen"]
            raise PeerRefused(message, denial=denial)

    # --- shutting out, and back in ---

    def revoke(self, site: str) -> None:
        """Shut a site out, at once and for good: only a new invitation and a new binding bring it back.

        Raises:
            UsageError: There is no such site.
        """
        self._set_status(site, "revoked")
        with self._lock, transaction(self._engine) as connection:
            connection.execute(update(certificates).where(certificates.c.site == site).values(revoked=1))
        self._load()
        self._journal.append("site-revoked", site=site)

    def unfreeze(self, site: str) -> None:
        """Let a frozen site back in, once its operator knows who else had its keys.

        Raises:
            UsageError: It is not frozen.
        """
        if self._statuses.get(site) != "frozen":
            raise UsageError(f"{site} is not frozen.")
        self._set_status(site, "member")
        self._load()
        self._journal.append("site-unfrozen", site=site)

    def leave(self, request: LeaveRequest, *, site: str) -> None:
        """Let a site go that says so itself.

        Raises:
            PeerRefused: It speaks for another site, or did not sign.
        """
        statement = {"site": request.site, "left_at": request.left_at}
        try:
            verify(self.signing_key(site), "leave", statement, request.signature)
        except IdentityError as error:
            raise PeerRefused(error.message, denial=Denial.PROOF) from None
        if request.site != site:
            raise PeerRefused("A site leaves for itself only.", denial=Denial.FORBIDDEN)
        self._set_status(site, "left")
        self._load()
        self._journal.append("site-left", site=site)

    def _set_status(self, site: str, status: str) -> None:
        if site not in self._statuses:
            raise UsageError(f"There is no site '{site}'.", advice=f"There are: {', '.join(sorted(self._statuses))}.")
        with self._lock, transaction(self._engine) as connection:
            connection.execute(update(sites).where(sites.c.name == site).values(status=status))

    def applications(self) -> tuple[SignedBinding, ...]:
        """Return the bindings of sites that enrolled and wait for the founder."""
        with self._engine.connect() as connection:
            found = connection.execute(select(sites.c.binding).where(sites.c.status == "applicant")).scalars().all()
        return tuple(SignedBinding.model_validate_json(binding) for binding in found)


@lru_cache(maxsize=8)  # every session is told the newest: one copy of it for all
def _read_roster(signed: str) -> SignedRoster:
    return SignedRoster.model_validate_json(signed)


@lru_cache(maxsize=10_000)
def _read_certificate(pem: bytes) -> tuple[str, str, str, str, float]:
    """Return federation, site, serial, TLS key and expiry of a certificate; its bytes are parsed once."""
    certificate, key = parse_certificate(pem)
    federation, site = site_of(certificate)
    return federation, site, f"{certificate.serial_number:x}", key, certificate.not_valid_after_utc.timestamp()
