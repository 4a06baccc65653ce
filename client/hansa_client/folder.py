"""The site's folder: keys, certificate, roster, approvals and record; every file whole, durable, its owner's only.

site.toml                 settings, the operator's
keys/*.pem                made here; they never leave
request.json, binding.json  while joining: what was asked of the organisation, and its answer
membership.json           which federation this is; written last when joining
certificate.pem, authorities.pem, roster.json
counter                   number of the last session; counted up before it is used
proposals/<study>.json    what the coordinator asks
decisions/<digest>.json   what this site answered, signed with its own key
paused                    there while the site is paused
journal.jsonl             everything that left or was refused
ledger/<population>.jsonl what was spent of a population's privacy; it stays, whatever else is deleted
state/<plan digest>/      what a study needs here from round to round; it stays, for a study may be resumed
outbox/, models/<study>/, agent.sock, agent.log  the agent's
"""

import fcntl
import hmac
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from hansa_client.membership import SiteMembership
from hansa_client.proposals import proposal_digest
from hansa_client.settings import SiteSettings, read_settings, write_settings
from hansa_client.site_certificate import (
    check_certificate,
    issuer_of,
    merge_authorities,
    read_authorities,
    read_certificate,
)
from hansa_common.audit import Journal
from hansa_common.errors import HansaError, IdentityError, MessageError, StorageError, UsageError
from hansa_common.files import storage, sync_folder, write_whole
from hansa_common.identity import NodeKeys
from hansa_common.organisation import BindingRequest
from hansa_common.roster import SignedBinding, SignedRoster
from hansa_common.settings import Model, Strict
from hansa_common.signing import public_hex
from hansa_common.wire.protocol import CertificateReply, DecideRequest, Proposal

_MOST_PROPOSALS: Final = 1_000
_MOST_BYTES: Final = 64 << 20  # of one JSON file; a roster of 10,000 members is about 10 MiB
_RESTORE: Final = "Restore it from a backup, or leave and join again."


class SiteFolder:
    """One site's files.

    Args:
        path: Of the folder; it need not be there yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: int | None = None

    # --- the folder ---

    def create(self) -> None:
        """Make the folder and its settings, where they are missing.

        Raises:
            StorageError: The disk fails.
        """
        with storage(self.path, "create", advice="Choose another --folder."):
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            for name in ("proposals", "decisions", "models"):
                (self.path / name).mkdir(mode=0o700, exist_ok=True)
        if not (self.path / "site.toml").exists():
            write_settings(self.path / "site.toml")

    def check(self) -> None:
        """Refuse a folder that is no site's, neither before, in nor after a membership.

        Raises:
            UsageError: It is none, or is not there.
        """
        if not (self.path / "site.toml").is_file():
            raise _not_joined(self.path)

    def lock(self) -> None:
        """Keep other processes out until this one ends, or ``unlock``.

        Raises:
            UsageError: An agent works in this folder, or there is no such folder.
        """
        if not self.path.is_dir():
            raise _not_joined(self.path)
        with storage(self.path, "lock"):
            descriptor = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise UsageError(
                f"Another process works in {self.path}.", advice="See 'hansa site status'; stop it: hansa site stop"
            ) from None
        self._lock = descriptor

    def unlock(self) -> None:
        """Let other processes in."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def settings(self) -> SiteSettings:
        """Return the operator's settings.

        Raises:
            SettingsError: ``site.toml`` is missing or wrong.
        """
        return read_settings(self.path / "site.toml")

    def journal(self) -> Journal:
        """Return the record, for one writer: whoever holds the lock.

        Raises:
            JournalError: It was changed.
        """
        return Journal(self.path / "journal.jsonl")

    # --- who this site is ---

    def make_keys(self) -> NodeKeys:
        """Return the node's keys, made where there are none yet.

        Raises:
            StorageError: The disk fails; then there are none.
        """
        final, draft = self.path / "keys", self.path / ".keys"
        if not final.exists():
            with storage(final, "write"):
                shutil.rmtree(draft, ignore_errors=True)
                draft.mkdir(mode=0o700)
                NodeKeys.generate().save(draft)
                draft.replace(final)
                sync_folder(self.path)
        return self.keys()

    def keys(self) -> NodeKeys:
        """Return the node's keys.

        Raises:
            StorageError: They are missing or damaged.
            IdentityError: Others than the owner can read them.
        """
        return NodeKeys.load(self.path / "keys")

    @property
    def has_joined(self) -> bool:
        """There is a membership."""
        return (self.path / "membership.json").exists()

    def membership(self) -> SiteMembership:
        """Return which federation this is.

        Raises:
            UsageError: The site has not joined one.
        """
        if not self.has_joined:
            raise _not_joined(self.path)
        return self._read("membership.json", SiteMembership)

    def request(self) -> BindingRequest | None:
        """Return what was asked of the organisation; ``None`` before."""
        return self._read("request.json", BindingRequest) if (self.path / "request.json").exists() else None

    def save_request(self, request: BindingRequest) -> None:
        """Keep what is asked of the organisation."""
        self._write("request.json", request)

    def binding(self) -> SignedBinding | None:
        """Return the organisation's answer; ``None`` before."""
        return self._read("binding.json", SignedBinding) if (self.path / "binding.json").exists() else None

    def save_binding(self, binding: SignedBinding) -> None:
        """Keep the organisation's answer."""
        self._write("binding.json", binding)

    def save_membership(self, membership: SiteMembership, roster: SignedRoster, reply: CertificateReply) -> None:
        """Keep what joining brought; the membership last, so that it is there only with all the rest.

        Raises:
            IdentityError: The certificate is not this site's, or of another authority than the roster's.
            StorageError: The disk fails.
        """
        self._check_certificate(reply, membership, roster)
        self._write("roster.json", roster)
        write_whole(self.path / "authorities.pem", b"", mode=0o600)
        self._write_certificate(reply)
        if not (self.path / "counter").exists():
            write_whole(self.path / "counter", b"0", mode=0o600)
        self._write("membership.json", membership)

    def forget(self) -> None:
        """Delete keys, certificate and everything else of the membership; models and the record stay.

        Raises:
            StorageError: The disk fails; run it again.
        """
        with storage(self.path, "delete from", advice="Run it again once the disk is mended."):
            for name in ("membership.json", "certificate.pem", "authorities.pem", "roster.json", "counter"):
                (self.path / name).unlink(missing_ok=True)
            for name in ("request.json", "binding-request.json", "binding.json", "paused", "agent.sock"):
                (self.path / name).unlink(missing_ok=True)
            for name in ("keys", ".keys", "proposals", "decisions", "outbox", "incoming", "apps", "masking", "state"):
                if (self.path / name).exists():
                    shutil.rmtree(self.path / name)
            sync_folder(self.path)

    # --- certificate ---

    def certificate(self) -> str:
        """Return the site's certificate as PEM."""
        return self._text("certificate.pem")

    def authorities(self) -> tuple[str, ...]:
        """Return the certificates, as PEM, of the authorities in the roster: nobody else's server is spoken to."""
        pins, known = self.roster().roster.coordinator.certificate_authorities, self._known_authorities()
        return tuple(known[pin] for pin in pins if pin in known)

    def issuer(self) -> str | None:
        """Return the pin of the authority that this site's certificate is of; ``None``: the roster no longer has it."""
        return issuer_of(self.certificate(), self.authorities())

    def _known_authorities(self) -> dict[str, str]:
        return read_authorities(self._text("authorities.pem"))

    def certificate_times(self) -> tuple[float, float]:
        """Return from when until when the certificate is good, as Unix times in seconds."""
        certificate = read_certificate(self.certificate())
        return certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp()

    def save_certificate(self, reply: CertificateReply) -> None:
        """Put a new certificate in the old one's place.

        Raises:
            IdentityError: It is not this site's, or of another authority than the roster's.
            StorageError: The disk fails; the old one is there.
        """
        self._check_certificate(reply, self.membership(), self.roster())
        self._write_certificate(reply)

    def _write_certificate(self, reply: CertificateReply) -> None:
        self._keep_authorities(reply.authorities, self.roster())
        write_whole(self.path / "certificate.pem", reply.certificate.encode(), mode=0o600)

    def _keep_authorities(self, pems: Sequence[str], roster: SignedRoster) -> None:
        before = self._known_authorities()
        kept = merge_authorities(before, pems, roster.roster)
        if kept != before:
            write_whole(self.path / "authorities.pem", "".join(kept.values()).encode(), mode=0o600)

    def _check_certificate(self, reply: CertificateReply, membership: SiteMembership, roster: SignedRoster) -> None:
        if roster.roster.federation != membership.federation:
            raise IdentityError("The roster is of another federation.")
        check_certificate(reply, roster.roster, site=membership.site, tls_key=self.keys().public().tls)

    # --- roster ---

    def roster(self) -> SignedRoster:
        """Return the newest version that this site accepted."""
        return self._read("roster.json", SignedRoster)

    def is_member(self) -> bool:
        """Tell whether the roster that this site has binds exactly its own keys to its name."""
        return self._is_bound_in(self.roster())

    def take_roster(self, signed: SignedRoster, authorities: Sequence[str] = ()) -> None:
        """Put the next version in the place of the one this site has, also one that takes this site out.

        Args:
            signed: The version.
            authorities: Certificates, as PEM, of authorities that it pins.

        Raises:
            IdentityError: It is not signed by the founder, does not follow, or the coordinator shows no certificate of
                its authorities: the old one stays.
            StorageError: The disk fails; the old one is there.
        """
        signed.verify_successor(self.roster())
        self._keep_authorities(authorities, signed)
        self._write("roster.json", signed)

    def accept_roster(self, signed: SignedRoster, authorities: Sequence[str] = ()) -> None:
        """Put the next version in the place of the one this site has.

        Raises:
            IdentityError: As ``take_roster``. Or it takes this site out, or gives its name to other keys: that is the
                founder's word, so it is kept.
            StorageError: The disk fails; the old one is there.
        """
        before = self.roster()
        self.take_roster(signed, authorities)
        if self._is_bound_in(before) and not self._is_bound_in(signed):
            raise IdentityError(
                f"Roster version {signed.roster.version} no longer has this site with its keys.",
                advice="The founder took it out: ask the founder, and join again with a new invitation.",
            )

    def _is_bound_in(self, signed: SignedRoster) -> bool:
        binding = signed.roster.member(self.membership().site)
        return binding is not None and binding.keys == self.keys().public()

    # --- sessions ---

    def next_counter(self) -> int:
        """Return the number of the next session; it is on the disk before it is used.

        Raises:
            StorageError: It cannot be read or written. To guess one would look like a stolen key.
        """
        path = self.path / "counter"
        text = self._text("counter").strip()
        if not re.fullmatch(r"[0-9]{1,16}", text):
            raise StorageError(f"{path} holds no number.", advice=_RESTORE)
        following = int(text) + 1
        write_whole(path, str(following).encode(), mode=0o600)
        return following

    # --- proposals and answers ---

    def save_proposal(self, proposal: Proposal) -> bool:
        """Keep what the coordinator asks; tell whether it is new here.

        Raises:
            MessageError: Its id is none, there are too many, or the plan cannot be read.
            IdentityError: The digest is not the plan's.
        """
        path = self._proposal_path(proposal.study)
        if proposal_digest(proposal) != proposal.digest:
            raise IdentityError(f"The digest of study {proposal.study} is not that of its plan.")
        content = proposal.model_dump_json().encode()
        if path.exists() and path.read_bytes() == content:
            return False
        if not path.exists() and sum(1 for _ in path.parent.glob("*.json")) >= _MOST_PROPOSALS:
            raise MessageError(f"More than {_MOST_PROPOSALS:,} studies are open.")
        with storage(path.parent, "create"):
            path.parent.mkdir(mode=0o700, exist_ok=True)
        write_whole(path, content, mode=0o600)
        return True

    def proposals(self) -> tuple[Proposal, ...]:
        """Return the studies that this site is asked about, the oldest first."""
        names = sorted(path.name for path in (self.path / "proposals").glob("[!.]*.json"))
        found = [self._read(f"proposals/{name}", Proposal) for name in names]
        return tuple(sorted(found, key=lambda proposal: (proposal.proposed_at, proposal.study)))

    def proposal(self, study: str) -> Proposal:
        """Return one of them.

        Raises:
            UsageError: There is none with this id.
        """
        if not self._proposal_path(study).exists():
            open_ = ", ".join(proposal.study for proposal in self.proposals())
            raise UsageError(f"There is no open study '{study}' here.", advice=f"Open are: {open_ or 'none'}.")
        return self._read(f"proposals/{study}.json", Proposal)

    def close_proposal(self, study: str) -> None:
        """Forget a study that is over; the answer to it stays."""
        self._proposal_path(study).unlink(missing_ok=True)

    def _proposal_path(self, study: str) -> Path:
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,99}", study):
            raise MessageError("This is no id of a study.")
        return self.path / "proposals" / f"{study}.json"

    def save_decision(self, request: DecideRequest) -> None:
        """Keep this site's signed answer; the last one about a plan counts."""
        with storage(self.path, "create"):
            (self.path / "decisions").mkdir(mode=0o700, exist_ok=True)
        self._write(f"decisions/{request.decision.digest}.json", request)

    def decisions(self) -> dict[str, DecideRequest]:
        """Return the answers that this site's key signed, by the digest of the plan."""
        digests = sorted(path.stem for path in (self.path / "decisions").glob("[!.]*.json"))
        return dict(self._signed(digests))

    def _signed(self, digests: list[str]) -> Iterator[tuple[str, DecideRequest]]:
        for digest in digests:
            request = self._decision(digest)
            if request is not None:
                yield digest, request

    def is_approved(self, digest: str) -> bool:
        """Tell whether this site's key signed its approval of the plan with this digest, and no refusal after it.

        Read and verified anew each time. What is missing, unreadable or not so signed is no approval.
        """
        request = self._decision(digest)
        return request is not None and request.decision.approved

    def _decision(self, digest: str) -> DecideRequest | None:
        """Return a stored answer if it is this site's own word about exactly this plan."""
        if not re.fullmatch(r"[0-9a-f]{64}", digest):
            return None
        try:
            request = self._read(f"decisions/{digest}.json", DecideRequest)
            membership, decision = self.membership(), request.decision
            request.verify(public_hex(self.keys().signing))
        except HansaError:
            return None
        found = f"{decision.federation}\n{decision.site}\n{decision.digest}"
        wanted = f"{membership.federation}\n{membership.site}\n{digest}"
        return request if hmac.compare_digest(found.encode(), wanted.encode()) else None

    # --- pause ---

    def is_paused(self) -> bool:
        """Tell whether the operator paused the site."""
        return (self.path / "paused").exists()

    def set_paused(self, paused: bool) -> None:
        """Pause or go on; kept over restarts."""
        if paused:
            write_whole(self.path / "paused", b"")
        else:
            with storage(self.path, "change"):
                (self.path / "paused").unlink(missing_ok=True)
                sync_folder(self.path)

    # --- files ---

    def _text(self, name: str) -> str:
        path = self.path / name
        try:
            if path.stat().st_size > _MOST_BYTES:
                raise StorageError(f"{path} is too large.", advice=_RESTORE)
            return path.read_text(encoding="utf-8")
        except OSError as error:
            raise StorageError(f"{path} cannot be read: {error.strerror}.", advice=_RESTORE) from error
        except UnicodeDecodeError:
            raise StorageError(f"{path} is no text.", advice=_RESTORE) from None

    def _read(self, name: str, kind: type[Model]) -> Model:
        try:
            return kind.model_validate_json(self._text(name))
        except ValidationError:
            raise StorageError(f"{self.path / name} is not as it was written.", advice=_RESTORE) from None

    def _write(self, name: str, value: Strict) -> None:
        write_whole(self.path / name, value.model_dump_json().encode(), mode=0o600)


def _not_joined(path: Path) -> UsageError:
    return UsageError(
        f"{path} is no site that has joined.",
        advice="Join first: hansa site join INVITATION; or name another folder with --folder.",
    )
