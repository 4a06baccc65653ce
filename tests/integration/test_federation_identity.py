"""Identity end to end: every call of every service, made by everybody who must not make it."""

import hashlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from tests.chaos.members import NAME, Members
from tests.chaos.peer import NO_CALL, Peer, outcome

from hansa_client.calls import call, enrolment_channel
from hansa_client.enrolment import join, prepare, recover
from hansa_client.folder import SiteFolder
from hansa_common.errors import HansaError
from hansa_common.identity import NodeKeys, site_uri
from hansa_common.invitation import Invitation
from hansa_common.roster import sign_binding
from hansa_common.signing import sign
from hansa_common.wire.protocol import (
    COORDINATOR,
    ENROLMENT,
    FEDERATION,
    BeginReply,
    BeginRequest,
    Decision,
    Denial,
    Empty,
    LeaveRequest,
    RecoverRequest,
    RenewRequest,
    StoredRequest,
    TaskId,
    dump,
    sign_decision,
)
from hansa_server.federation.administration import administration_calls
from hansa_server.federation.enrolment import EnrolmentService
from hansa_server.federation.process import STUDY_CALLS
from hansa_server.federation.service import METHODS

TASK = TaskId(study="some", step="train-1", attempt=1, site="site-1")
NOBODY = "f" * 64
MOMENT = 2.0  # seconds in which a cut must be in force
ENROLMENT_METHODS = ("Begin", "Enrol", "Recover", "NextRoster")
NOTHING: Any = None
COORDINATOR_METHODS = (*STUDY_CALLS, *administration_calls(NOTHING, NOTHING))
Attempts = Mapping[str, Callable[[], object]]


@pytest.fixture(scope="module")
def founded(tmp_path_factory: pytest.TempPathFactory) -> Members:
    sites = ("site-1", "site-2", "site-3", "site-4", "site-5", "site-6", "revoked", "lost")
    return Members(tmp_path_factory.mktemp("identity"), sites)


@pytest.fixture(scope="module")
def late(founded: Members) -> Invitation:
    """An invitation that expired as soon as it was made."""
    with founded.setting(invitation_hours=1e-9) as membership:
        return membership.invite("site-8")


@pytest.fixture(scope="module")
def federation(founded: Members, late: Invitation) -> Iterator[Members]:
    assert late.expires <= time.time()
    with founded as made:
        made.revoke("revoked")
        yield made


def minted(federation: Members, name: str, keys: NodeKeys, *, lifetime: timedelta = timedelta(hours=1)) -> str:
    """A certificate that the authority's key signed and the coordinator did not issue."""
    return federation.root.issue(NAME, name, keys.certificate_request(), lifetime=lifetime).certificate


def self_signed(keys: NodeKeys) -> str:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "hansa site")])
    now = datetime.now(UTC)
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(site_uri(NAME, "site-1"))])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(keys.tls.public_key())
    builder = builder.serial_number(1).not_valid_before(now - timedelta(1)).not_valid_after(now + timedelta(1))
    signed = builder.add_extension(names, critical=False).sign(keys.tls, hashes.SHA256())
    return signed.public_bytes(Encoding.PEM).decode()


def stored(session: str, task: TaskId = TASK) -> bytes:
    return dump(StoredRequest(session=session, task=task, size=1, sha256=NOBODY))


def leaving(keys: NodeKeys, site: str) -> bytes:
    signature = sign(keys.signing, "leave", {"site": site, "left_at": 1})
    return dump(LeaveRequest(site=site, left_at=1, signature=signature))


def deciding(keys: NodeKeys, site: str) -> bytes:
    decision = Decision(federation=NAME, site=site, study="some", digest=NOBODY, approved=True, decided_at=1)
    return dump(sign_decision(decision, keys.signing))


def renewing(session: str, keys: NodeKeys) -> bytes:
    return dump(RenewRequest(session=session, certificate_request=keys.certificate_request()))


def attempts(peer: Peer) -> Attempts:
    """One well-formed try of each call of the Federation service."""
    session, keys, site = peer.session or NOBODY, peer.site.keys(), peer.membership.site
    return {
        "Attach": lambda: peer.attach(counter=10**9),
        "Download": lambda: peer.download(TASK, session=session),
        "Upload": lambda: peer.upload(TASK, b"x", session=session),
        "Stored": lambda: peer.raw("Stored", stored(session)),
        "Decide": lambda: peer.raw("Decide", deciding(keys, site)),
        "Proposals": lambda: peer.raw("Proposals", dump(Empty())),
        "Renew": lambda: peer.raw("Renew", renewing(session, keys)),
        "Leave": lambda: peer.raw("Leave", leaving(keys, site)),
    }


def outcomes(peer: Peer) -> set[str]:
    """Return what becomes of every call on both ports' services, made with this identity on the federation port."""
    with peer:
        tried = {outcome(attempt) for attempt in attempts(peer).values()}
        for method in COORDINATOR_METHODS:
            denial = outcome(partial(peer.raw, method, b"{}", service=COORDINATOR))
            assert denial in (NO_CALL, Denial.FORBIDDEN), method
        for method in ENROLMENT_METHODS:
            assert outcome(partial(peer.raw, method, b"{}", service=ENROLMENT)) == NO_CALL, method
        return tried


def test_every_call_is_tried(federation: Members) -> None:
    enrolment: Any = EnrolmentService(NOTHING, rates=NOTHING, metrics=NOTHING, protocols=(1,)).handler()
    assert {f"/{ENROLMENT}/{method}" for method in ENROLMENT_METHODS} == set(enrolment._method_handlers)
    with federation.peer("site-1") as peer:
        assert set(attempts(peer)) == set(METHODS)


def test_without_a_good_certificate_of_the_authority_no_connection_is_made(federation: Members) -> None:
    own, other = federation.keys("site-1"), NodeKeys.generate()
    expired = minted(federation, "site-1", own, lifetime=timedelta(milliseconds=1))
    assert outcomes(federation.peer("site-1", certificate="")) == {NO_CALL}
    assert outcomes(federation.peer("site-1", certificate=self_signed(own))) == {NO_CALL}
    assert outcomes(federation.peer("site-1", certificate=self_signed(other), key=other.tls_pem())) == {NO_CALL}
    assert outcomes(federation.peer("site-1", certificate=expired)) == {NO_CALL}
    assert outcomes(federation.peer("site-1", key=other.tls_pem())) == {NO_CALL}  # the certificate without its key


def test_the_authoritys_key_alone_admits_nobody(federation: Members) -> None:
    """T15: certificates that the stolen key mints, for new names, for a member's name, and for a member's own key."""
    other = NodeKeys.generate()
    for name, keys in (("site-9", other), ("site-1", other), ("site-1", federation.keys("site-1"))):
        forged = minted(federation, name, keys)
        assert outcomes(federation.peer("site-1", certificate=forged, key=keys.tls_pem())) == {Denial.UNKNOWN}, name


def test_the_servers_own_certificate_is_no_sites(federation: Members) -> None:
    server = federation.folder.server
    key = (server / "server.pem").read_bytes()
    found = outcomes(federation.peer("site-1", certificate=(server / "server.crt").read_text(), key=key))
    assert found <= {NO_CALL, Denial.UNKNOWN}


def test_a_revoked_site_makes_no_call_and_gets_no_certificate(federation: Members) -> None:
    assert outcomes(federation.peer("revoked")) == {Denial.REVOKED}
    assert outcome(lambda: recover(SiteFolder(federation.path / "revoked"))) == Denial.REVOKED


def test_a_member_speaks_for_itself_only(federation: Members) -> None:
    federation.push(TASK)
    with federation.peer("site-1") as victim, federation.peer("site-2") as peer:
        victim.attach()
        own, theirs = federation.keys("site-2"), federation.keys("site-1")
        without_session = {name: outcome(attempt) for name, attempt in attempts(peer).items() if name != "Attach"}
        assert without_session.pop("Proposals") == "ACCEPTED"  # its own
        assert without_session.pop("Decide") == Denial.NO_TASK
        assert without_session.pop("Leave") == "ACCEPTED"
        assert set(without_session.values()) == {Denial.NO_SESSION}
    with federation.peer("site-1") as victim, federation.peer("site-3") as peer:
        victim.attach()
        peer.attach()
        own = federation.keys("site-3")

        def attaching(site: str, signature: str) -> None:
            with federation.peer(site) as another:
                another.attach(counter=10**6, signature=signature)

        statement = {"federation": NAME, "site": "site-1", "counter": 10**6}
        foreign: dict[str, list[tuple[str, Callable[[], object]]]] = {
            "Attach": [
                (Denial.PROOF, lambda: attaching("site-3", sign(theirs.signing, "session", statement))),
                (Denial.PROOF, lambda: attaching("site-3", sign(own.signing, "session", statement))),
            ],
            "Download": [
                (Denial.NO_TASK, lambda: peer.download(TASK)),
                (Denial.SUPERSEDED, lambda: peer.download(TASK, session=victim.session)),
            ],
            "Upload": [
                (Denial.NO_TASK, lambda: peer.upload(TASK, b"x")),
                (Denial.SUPERSEDED, lambda: peer.upload(TASK, b"x", session=victim.session)),
            ],
            "Stored": [
                (Denial.NO_TASK, lambda: peer.raw("Stored", stored(peer.session))),
                (Denial.SUPERSEDED, lambda: peer.raw("Stored", stored(victim.session))),
            ],
            "Decide": [
                (Denial.PROOF, lambda: peer.raw("Decide", deciding(theirs, "site-1"))),
                (Denial.NO_TASK, lambda: peer.raw("Decide", deciding(own, "site-1"))),  # no such study at all
            ],
            "Renew": [
                (Denial.SUPERSEDED, lambda: peer.raw("Renew", renewing(victim.session, own))),
                (Denial.PROOF, lambda: peer.raw("Renew", renewing(peer.session, theirs))),
            ],
            "Leave": [
                (Denial.PROOF, lambda: peer.raw("Leave", leaving(theirs, "site-1"))),
                (Denial.FORBIDDEN, lambda: peer.raw("Leave", leaving(own, "site-1"))),
            ],
        }
        assert set(foreign) == set(METHODS) - {"Proposals"}  # that one has no argument
        for method, rows in foreign.items():
            assert [outcome(attempt) for _, attempt in rows] == [denial for denial, _ in rows], method
        assert victim.download(TASK) == b"a task"  # it has not noticed any of this


def test_the_coordinators_calls_are_refused_on_the_network(federation: Members) -> None:
    with federation.peer("site-1") as inside, federation.stranger("site-1") as outside:
        for method in COORDINATOR_METHODS:
            for peer in (inside, outside):
                assert outcome(partial(peer.raw, method, b"{}", service=COORDINATOR)) == Denial.FORBIDDEN, method
        for method in METHODS:
            assert outcome(partial(outside.raw, method, b"{}", service=FEDERATION)) == NO_CALL, method
        for method in ENROLMENT_METHODS:
            assert outcome(partial(outside.raw, method, b"\xff{", service=ENROLMENT)) == Denial.INVALID, method


def test_a_certificate_is_recovered_with_the_bound_keys_only(federation: Members) -> None:
    own, other = federation.keys("site-1"), NodeKeys.generate()

    def try_to_recover(site: str, signer: NodeKeys, tls: NodeKeys) -> str:
        folder = SiteFolder(federation.path / "site-1")
        with enrolment_channel(folder.membership().enrolment, folder.authorities(), proxy=None) as channel:
            begun = call(channel, ENROLMENT, "Begin", BeginRequest(), BeginReply)
            csr = tls.certificate_request()
            statement = {"nonce": begun.nonce, "site": site, "request": hashlib.sha256(csr.encode()).hexdigest()}
            signature = sign(signer.signing, "recovery", statement)
            request = RecoverRequest(site=site, nonce=begun.nonce, certificate_request=csr, signature=signature)
            return outcome(lambda: call(channel, ENROLMENT, "Recover", request, Empty))

    assert try_to_recover("site-1", other, own) == Denial.PROOF
    assert try_to_recover("site-1", own, other) == Denial.PROOF
    assert try_to_recover("site-9", own, own) == Denial.NOT_A_MEMBER
    recover(SiteFolder(federation.path / "site-1"))


def test_a_body_of_600_mb_is_refused_and_not_kept(federation: Members) -> None:
    server = psutil.Process(federation.pid)
    before = server.memory_info().rss
    site = SiteFolder(federation.path / "site-1")
    options = [("grpc.max_send_message_length", -1), ("grpc.enable_http_proxy", 0)]
    credentials = grpc.ssl_channel_credentials(
        "".join(site.authorities()).encode(), site.keys().tls_pem(), site.certificate().encode()
    )
    with grpc.secure_channel(site.membership().address, credentials, options=options) as channel:
        decide: Any = channel.unary_unary(f"/{FEDERATION}/Decide")
        with pytest.raises(grpc.RpcError) as error:
            decide(bytes(600_000_000), timeout=60)
        assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert server.memory_info().rss - before < 50_000_000


@pytest.mark.parametrize(("site", "higher"), [("site-3", 0), ("site-4", -1), ("site-5", 10**12)])
def test_a_copied_key_is_noticed_and_frozen_and_an_honest_reconnect_is_not(
    federation: Members, site: str, higher: int
) -> None:
    """T13. A copy that shows a higher counter is noticed as soon as the site itself connects again."""
    with federation.peer(site) as half_open, federation.peer(site) as honest, federation.peer(site) as copy:
        half_open.attach()
        first = Ending(half_open)
        honest.attach()  # an honest reconnect takes over from the session that the network lost
        assert first.reason() == Denial.SUPERSEDED
        ending = Ending(honest)
        used = int((federation.path / site / "counter").read_text())
        began = time.monotonic()
        if higher > 0:
            copy.attach(counter=used + higher)
            assert ending.reason() == Denial.SUPERSEDED
            ending = Ending(copy)
            with federation.peer(site) as again:
                assert outcome(again.attach) == Denial.FROZEN
        else:
            assert outcome(lambda: copy.attach(counter=used + higher)) == Denial.FROZEN
        assert ending.reason() == Denial.FROZEN
        assert time.monotonic() - began < MOMENT
        assert {outcome(attempt) for peer in (honest, copy) for attempt in attempts(peer).values()} == {Denial.FROZEN}
        assert outcome(lambda: recover(SiteFolder(federation.path / site))) == Denial.FROZEN
    assert federation.shown()[site].status == "frozen"
    assert federation.events(site).count("site-frozen") == 1
    federation.unfreeze(site)
    with federation.peer(site) as back:
        back.attach()
    assert federation.events(site)[-1] == "site-unfrozen"


class Ending:
    """Reads a session's notices until it ends, as a site does."""

    def __init__(self, peer: Peer) -> None:
        self._ended: list[str] = []
        self._thread = threading.Thread(target=self._read, args=(peer,), daemon=True)
        self._thread.start()

    def _read(self, peer: Peer) -> None:
        self._ended.append(outcome(lambda: list(peer._notices())))

    def reason(self) -> str:
        """Wait for the end and return why."""
        self._thread.join(timeout=10.0)
        return self._ended[0]


def test_an_invitation_lets_in_once_and_only_whoever_holds_it(
    federation: Members, late: Invitation, tmp_path: Path
) -> None:
    """T14: a guess, an expired one, one that was intercepted and used first, an impostor's, a changed transcript."""
    invitation = federation.invite("site-8")

    def joining(name: str, used: Invitation = invitation, **changes: Any) -> str:
        folder = SiteFolder(tmp_path / name)
        request = prepare(folder, used)
        binding = sign_binding(request.answer(federation.owner.organisation, issued_at=1), federation.key)
        return outcome(lambda: join(folder, used.model_copy(update=changes), binding))

    assert joining("guesses", secret="0" * 32) == Denial.PROOF
    assert joining("guesses", id="0" * 32) == Denial.INVITATION
    assert joining("late", late.model_copy(update={"expires": late.expires + 600})) == Denial.INVITATION
    assert changed_transcripts(federation, SiteFolder(tmp_path / "changed"), invitation) == {Denial.PROOF}
    assert joining("first") == "ACCEPTED"
    assert joining("second") == Denial.INVITATION  # an intercepted string, with other keys
    assert "invitation-reused" in federation.events("site-8")
    impostor = invitation.model_copy(update={"authority": self_signed(NodeKeys.generate())})
    binding = SiteFolder(tmp_path / "first").binding()
    assert binding is not None
    with pytest.raises(HansaError):  # an impostor's authority: TLS does not come about, and nothing was sent
        join(SiteFolder(tmp_path / "first"), impostor, binding)
    with Peer(tmp_path / "first") as waiting:  # enrolled, and not admitted yet
        assert {outcome(attempt) for attempt in attempts(waiting).values()} == {Denial.NOT_A_MEMBER}


def changed_transcripts(federation: Members, folder: SiteFolder, invitation: Invitation) -> set[str]:
    """Enrol with each signed or proved value exchanged for another good one."""
    other = NodeKeys.generate()
    found = set()
    with federation.stranger("site-1") as peer:
        begin = partial(peer.call, "Begin", BeginRequest(), BeginReply, service=ENROLMENT)
        elsewhere = federation.enrolment(SiteFolder(folder.path.with_name("elsewhere")), invitation, begin())
        for change in (
            {"nonce": elsewhere.nonce},
            {"binding": elsewhere.binding},
            {"certificate_request": other.certificate_request()},
            {"acceptance": elsewhere.acceptance},
            {"proof": elsewhere.proof},
            {"roster": NOBODY},
            {"binding": sign_binding(elsewhere.binding.binding, other.signing)},
        ):
            request = federation.enrolment(folder, invitation, begin()).model_copy(update=change)
            found.add(outcome(partial(peer.raw, "Enrol", dump(request), service=ENROLMENT)))
    return found


def test_a_lost_key_does_not_come_back_with_the_next_roster(federation: Members) -> None:
    """Revoked, invited anew and not admitted yet: what the founder signs meanwhile still has the lost key."""
    federation.revoke("lost")
    with federation.peer("site-6") as leaver:
        leaver.raw("Leave", leaving(federation.keys("site-6"), "site-6"))
    bindings = federation.bindings()
    fresh = SiteFolder(federation.path / "fresh")
    invitation = federation.invite("lost")
    with federation.stranger("site-1") as peer:
        begun = peer.call("Begin", BeginRequest(), BeginReply, service=ENROLMENT)
        request = federation.enrolment(fresh, invitation, begun)
        peer.raw("Enrol", dump(request), service=ENROLMENT)
    federation.install(*bindings.values())
    assert federation.shown()["lost"].status == "applicant"
    assert federation.shown()["site-6"].status == "left"  # a roster that is about others does not undo that
    assert Denial.REVOKED in outcomes(federation.peer("lost"))
    assert outcome(lambda: recover(SiteFolder(federation.path / "lost"))) == Denial.NOT_A_MEMBER
    federation.install(*{**bindings, "lost": request.binding}.values())
    assert federation.shown()["lost"].status == "member"
    assert outcome(lambda: recover(SiteFolder(federation.path / "lost"))) == Denial.PROOF


def test_a_certificate_for_other_keys_than_the_rosters_is_none(federation: Members) -> None:
    """The founder binds other keys to a member; its certificate is good and was not revoked."""
    keys = NodeKeys.generate()
    bindings = federation.bindings()
    binding = bindings["site-4"].binding.model_copy(update={"keys": keys.public()})
    federation.install(*{**bindings, "site-4": sign_binding(binding, federation.key)}.values())
    assert outcomes(federation.peer("site-4")) == {Denial.NOT_A_MEMBER}
    assert outcome(lambda: recover(SiteFolder(federation.path / "site-4"))) == Denial.PROOF
