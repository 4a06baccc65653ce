"""The authority is replaced: in order, in every wrong order, killed between the steps, and attacked."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from pydoc import locate
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import create_engine, text
from tests.chaos.members import NAME, PASSPHRASE, Members

from hansa_client.folder import SiteFolder
from hansa_common.errors import IdentityError, PeerRefused, StorageError, UsageError
from hansa_common.identity import pin_of
from hansa_common.roster import sign_roster
from hansa_common.wire.protocol import CertificateReply, Denial
from hansa_server.federation.authority import Authorities, Authority
from hansa_server.federation.database import open_database
from hansa_server.federation.founding import membership_of
from hansa_server.federation.membership import Membership

SITES = ("site-1", "site-2")


@pytest.fixture
def federation(tmp_path: Path) -> Members:
    return Members(tmp_path, SITES)


def opened(federation: Members) -> Membership:
    """The coordinator's membership, as a server that is started now has it."""
    return membership_of(federation.folder, PASSPHRASE)


def renew(federation: Members, *sites: str, roster_version: int = 0) -> list[CertificateReply]:
    membership = opened(federation)
    requests = [(site, federation.keys(site).certificate_request()) for site in sites]
    return [membership.renew(site, request, roster_version) for site, request in requests]


def pins(federation: Members) -> tuple[str, ...]:
    return opened(federation).roster().roster.coordinator.certificate_authorities


def issuer(reply: CertificateReply) -> str:
    certificate = x509.load_pem_x509_certificate(reply.certificate.encode())
    authority = x509.load_pem_x509_certificate(reply.authorities[-1].encode())
    certificate.verify_directly_issued_by(authority)
    return pin_of(authority)


def keys(federation: Members) -> set[str]:
    return {path.name for path in federation.folder.authority.glob("root*.pem")}


def signed(federation: Members, authorities: tuple[str, ...], key: Ed25519PrivateKey | None = None) -> Any:
    following = opened(federation).roster().roster.following(authorities=authorities, issued_at=int(time.time()))
    return sign_roster(following, key or federation.key)


@contextmanager
def killed_at(monkeypatch: pytest.MonkeyPatch, place: str, names: tuple[str, ...], number: int) -> Iterator[None]:
    """Let the call with this number, of these functions together, end what is done."""
    calls = iter(range(100))

    def counting(name: str) -> Callable[..., Any]:
        original: Any = locate(f"{place}.{name}")

        def call(*arguments: Any, **options: Any) -> Any:
            if next(calls) == number:
                raise StorageError("killed here")
            return original(*arguments, **options)

        return call

    with monkeypatch.context() as patch:
        for name in names:
            patch.setattr(f"{place}.{name}", counting(name))
        with pytest.raises(StorageError, match="killed here"):
            yield


class TestInOrder:
    def test_the_new_one_certifies_once_the_founder_signed_and_the_old_one_ends(self, federation: Members) -> None:
        (old,) = pins(federation)
        certificate = SiteFolder(federation.path / "site-1").certificate().encode()
        federation.authority("rotate")
        both = pins(federation)
        assert both[0] == old
        assert opened(federation).authorise(certificate) == "site-1"  # whoever has one goes on with it
        assert [issuer(reply) for reply in renew(federation, *SITES)] == [both[1], both[1]]
        shown = federation.authority("show")
        assert "trusted" in shown
        assert "certifies" in shown
        assert "its key deleted" in federation.authority("retire")
        assert pins(federation) == both[1:]
        assert keys(federation) == {"root-2.pem"}
        assert "retired" in federation.authority("show")

    def test_a_site_is_certified_by_an_authority_that_its_own_roster_has(self, federation: Members) -> None:
        version = opened(federation).roster().roster.version
        federation.authority("rotate")
        both = pins(federation)
        (behind,) = renew(federation, "site-1", roster_version=version)
        assert issuer(behind) == both[0]
        (current,) = renew(federation, "site-1", roster_version=version + 1)
        assert issuer(current) == both[1]
        federation.authority("retire", "--force")
        with pytest.raises(PeerRefused, match="retired authorities only") as refused:
            renew(federation, "site-1", roster_version=version)
        assert refused.value.denial == Denial.UNKNOWN  # upon which it takes the rosters that it missed

    def test_an_invitation_from_before_is_good_until_the_old_one_ends(self, federation: Members) -> None:
        invitations = [opened(federation).invite(name) for name in ("new-1", "new-2")]
        federation.authority("rotate")

        def enrol(number: int) -> CertificateReply:
            membership, invitation = opened(federation), invitations[number]
            folder = SiteFolder(federation.path / invitation.site)
            return membership.enrol(federation.enrolment(folder, invitation, membership.begin(1)))

        assert issuer(enrol(0)) == pins(federation)[1]
        assert pin_of(opened(federation).invite("new-3").authority_certificate()) == pins(federation)[1]
        federation.authority("retire", "--force")
        with pytest.raises(PeerRefused, match="proof"):
            enrol(1)

    @pytest.mark.slow
    def test_it_can_be_done_again(self, federation: Members) -> None:
        for number in (2, 3):
            federation.authority("rotate")
            renew(federation, *SITES)
            federation.authority("retire")
            assert keys(federation) == {f"root-{number}.pem"}
        chain, _ = (
            opened(federation).certification.certifier().server_certificate("127.0.0.1", lifetime=timedelta(days=1))
        )
        assert chain.count("BEGIN CERTIFICATE") == 3  # its own, and one by each root before


@pytest.mark.slow
class TestWrongOrder:
    def test_each_command_says_what_is_missing(self, federation: Members) -> None:
        with pytest.raises(UsageError, match="no old authority") as nothing:
            federation.authority("retire")
        assert "authority rotate" in nothing.value.advice
        federation.authority("rotate")
        with pytest.raises(UsageError, match="being replaced already"):
            federation.authority("rotate")

    def test_sites_with_old_certificates_keep_it_and_are_named(self, federation: Members) -> None:
        federation.authority("rotate")
        renew(federation, "site-1")
        with pytest.raises(UsageError, match=r"^site-2: still"):
            federation.authority("retire")
        both = pins(federation)
        with pytest.raises(UsageError, match=r"^site-2: still"):  # the founder's own roster, put into force too early
            opened(federation).install_roster(signed(federation, both[1:]))
        assert pins(federation) == both
        assert len(keys(federation)) == 2
        federation.authority("retire", "--force")
        assert pins(federation) == both[1:]

    def test_a_site_whose_certificate_expired_keeps_nothing(self, tmp_path: Path) -> None:
        federation = Members(tmp_path, ("site-1",), expired=("site-1",))
        federation.authority("rotate")
        federation.authority("retire")

    def test_a_wrong_passphrase_makes_nothing(self, federation: Members, tmp_path: Path) -> None:
        wrong = tmp_path / "wrong"
        wrong.write_text("wrong")
        wrong.chmod(0o600)
        with pytest.raises(UsageError, match="does not open"):
            federation.authority("rotate", "--passphrase-file", str(wrong))
        assert keys(federation) == {"root.pem"}

    def test_a_founder_elsewhere_gets_files_to_sign(
        self, federation: Members, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        roster = opened(federation).roster().roster
        elsewhere = roster.model_copy(
            update={"version": roster.version + 1, "previous": roster.digest(), "founder_is_coordinator": False}
        )
        opened(federation).install_roster(sign_roster(elsewhere, federation.key))
        before = pins(federation)
        assert "hansa org pin" in federation.authority("rotate")
        assert pins(federation) == before
        with pytest.raises(UsageError, match="not in the roster yet"):
            federation.authority("retire")
        new = pin_of(x509.load_pem_x509_certificate((tmp_path / "authority.crt").read_bytes()))
        opened(federation).install_roster(signed(federation, (*before, new)))
        renew(federation, *SITES)
        assert "hansa org unpin" in federation.authority("retire")
        assert len(keys(federation)) == 2
        opened(federation).install_roster(signed(federation, (new,)))
        federation.authority("retire")
        assert keys(federation) == {"root-2.pem"}


@pytest.mark.slow
class TestKilled:
    @pytest.mark.parametrize("step", range(3))
    def test_between_any_two_files_of_a_new_root(
        self, federation: Members, monkeypatch: pytest.MonkeyPatch, step: int
    ) -> None:
        before = pins(federation)
        with killed_at(monkeypatch, "hansa_server.federation.authority", ("write_secret", "write_whole"), step):
            federation.authority("rotate")
        assert pins(federation) == before
        assert issuer(renew(federation, "site-1")[0]) == before[0]
        federation.authority("rotate")
        assert len(pins(federation)) == 2
        assert keys(federation) == {"root.pem", "root-2.pem"}

    def test_before_the_roster_is_in_force(self, federation: Members, monkeypatch: pytest.MonkeyPatch) -> None:
        with killed_at(monkeypatch, "hansa_server.authority_cli", ("_sign",), 0):
            federation.authority("rotate")
        made = tuple(Authorities(federation.folder).certificates())
        federation.authority("rotate")
        assert pins(federation) == made  # it is the same one

    def test_before_the_old_key_is_deleted(self, federation: Members, monkeypatch: pytest.MonkeyPatch) -> None:
        federation.authority("rotate")
        renew(federation, *SITES)
        with killed_at(monkeypatch, "hansa_server.federation.authority.Authorities", ("discard_key",), 0):
            federation.authority("retire")
        assert len(pins(federation)) == 1
        assert len(keys(federation)) == 2
        federation.authority("retire")
        assert keys(federation) == {"root-2.pem"}

    def test_between_the_servers_key_and_its_certificate(
        self, federation: Members, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def certificate(root: Authority) -> tuple[str, bytes]:
            return root.server_certificate("127.0.0.1", lifetime=timedelta(days=1))

        first = certificate(federation.root)
        assert certificate(federation.root) == first
        federation.authority("rotate")
        new = opened(federation).certification.certifier()
        with killed_at(monkeypatch, "hansa_server.federation.authority", ("write_whole",), 0):
            certificate(new)
        assert certificate(federation.root) != first  # its key is gone
        assert certificate(new) == certificate(new)


class TestAttacked:
    def test_a_new_pin_that_somebody_else_signed(self, federation: Members) -> None:
        (old,) = pins(federation)
        new = Authorities(federation.folder, PASSPHRASE).create(NAME, after=old)
        for key in (Ed25519PrivateKey.generate(), federation.keys("site-1").signing):
            with pytest.raises(IdentityError):
                opened(federation).install_roster(signed(federation, (old, new.pin), key))
        assert issuer(renew(federation, "site-1")[0]) == old  # nor does it certify before it is in the roster

    def test_a_pin_that_is_not_this_coordinators(self, federation: Members) -> None:
        (old,) = pins(federation)
        for chosen in ((old, "ab" * 32), ("ab" * 32,)):
            with pytest.raises(UsageError, match="not this coordinator's"):
                opened(federation).install_roster(signed(federation, chosen))

    def test_a_roster_from_before_does_not_bring_the_old_one_back(self, federation: Members) -> None:
        before = opened(federation).roster()
        federation.authority("rotate")
        during = opened(federation).roster()
        renew(federation, *SITES)
        federation.authority("retire")
        for old in (before, during):
            with pytest.raises(IdentityError, match="does not follow"):
                opened(federation).install_roster(old)

    def test_certificates_of_the_retired_one(self, federation: Members) -> None:
        """T15, with the key of the old root stolen: its old certificates, and what it mints."""
        own = SiteFolder(federation.path / "site-1").certificate().encode()
        federation.authority("rotate")
        renew(federation, *SITES)
        assert opened(federation).authorise(own) == "site-1"
        federation.authority("retire")
        with pytest.raises(PeerRefused, match="was retired") as refused:
            opened(federation).authorise(own)
        assert refused.value.denial == Denial.UNKNOWN
        request = federation.keys("site-1").certificate_request()
        minted = federation.root.issue(NAME, "site-1", request, lifetime=timedelta(days=1)).certificate
        with pytest.raises(PeerRefused, match="unknown here"):
            opened(federation).authorise(minted.encode())


def test_a_database_from_before_knows_its_certificates_authority(federation: Members) -> None:
    engine = create_engine(f"sqlite:///{federation.folder.database}")
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE certificates DROP COLUMN authority"))
        connection.execute(text("PRAGMA user_version=1"))
    engine.dispose()
    open_database(federation.folder.database).dispose()
    membership = opened(federation)
    assert membership.certification.certified_sites() == {pins(federation)[0]: list(SITES)}
    assert membership.authorise(SiteFolder(federation.path / "site-1").certificate().encode()) == "site-1"
