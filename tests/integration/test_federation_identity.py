"""Identity end to end: every call of every service, made by everybody who must not make it."""

import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import NameOID
from tests.chaos.federation import PASSPHRASE, Federation, Site
from tests.chaos.peer import Peer
from tests.chaos.processes import hansa

from hansa_client.enrolment import join, prepare, recover
from hansa_client.folder import SiteFolder
from hansa_common.errors import HansaError, PeerRefused, Unreachable
from hansa_common.identity import NodeKeys, site_uri
from hansa_common.invitation import read_invitation
from hansa_common.organisation import OrganisationFolder
from hansa_common.roster import sign_binding
from hansa_common.wire.protocol import (
    COORDINATOR,
    ENROLMENT,
    FEDERATION,
    CertificateReply,
    Denial,
    Empty,
    RenewRequest,
    TaskId,
    dump,
)
from hansa_server.federation.authority import Authority
from hansa_server.federation.folder import FederationFolder
from hansa_server.federation.process import STUDY_CALLS
from hansa_server.federation.service import METHODS

TASK = TaskId(study="some", step="train-1", attempt=1, site="site-1")
NOBODY = "f" * 64


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    folder = tmp_path_factory.mktemp("identity")
    with Federation(folder, ("site-1", "site-2"), settings={"calls_per_second": 100_000.0}) as made:
        yield made


def authority(federation: Federation) -> Authority:
    return Authority.load(FederationFolder(federation.folder), PASSPHRASE)


def minted(federation: Federation, name: str, keys: NodeKeys, *, hours: float = 1.0) -> str:
    """A certificate that the authority's key signed and the coordinator did not issue."""
    lifetime = timedelta(hours=hours)
    return authority(federation).issue("test", name, keys.certificate_request(), lifetime=lifetime).certificate


def self_signed(keys: NodeKeys) -> str:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "hansa site")])
    now = datetime.now(UTC)
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(site_uri("test", "site-1"))])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(keys.tls.public_key())
    builder = builder.serial_number(1).not_valid_before(now - timedelta(1)).not_valid_after(now + timedelta(1))
    signed = builder.add_extension(names, critical=False).sign(keys.tls, hashes.SHA256())
    from cryptography.hazmat.primitives.serialization import Encoding

    return signed.public_bytes(Encoding.PEM).decode()


def attempts(peer: Peer) -> dict[str, Callable[[], object]]:
    """One well-formed try of each call; a call without a row here fails the test that compares the names."""
    peer.session = peer.session or NOBODY
    key = peer.site.keys()
    request = RenewRequest(session=peer.session, certificate_request=key.certificate_request())
    return {
        "Attach": lambda: peer.attach(counter=10**9),
        "Download": lambda: peer.download(TASK),
        "Upload": lambda: peer.upload(TASK, b"x"),
        "Stored": lambda: peer.raw("Stored", _stored(peer)),
        "Decide": lambda: peer.raw("Decide", _any_decision(peer)),
        "Proposals": lambda: peer.raw("Proposals", dump(Empty())),
        "Renew": lambda: peer.call("Renew", request, CertificateReply),
        "Leave": lambda: peer.raw("Leave", b'{"site":"site-1","left_at":1,"signature":"' + b"0" * 128 + b'"}'),
    }


def _stored(peer: Peer) -> bytes:
    from hansa_common.wire.protocol import StoredRequest

    return dump(StoredRequest(session=peer.session, task=TASK, size=1, sha256=NOBODY))


def _any_decision(peer: Peer) -> bytes:
    from hansa_common.wire.protocol import DecideRequest, Decision

    decision = Decision(federation="test", site="site-1", study="some", digest=NOBODY, approved=True, decided_at=1)
    return dump(DecideRequest(decision=decision, signature="0" * 128))


def refused(call: Callable[[], object]) -> str:
    """Return the denial, or ``tls`` where the connection was not made at all."""
    try:
        call()
    except PeerRefused as error:
        return error.denial
    except Unreachable:
        return "tls"
    return "ACCEPTED"


def all_refused(peer: Peer) -> set[str]:
    with peer:
        return {refused(call) for call in attempts(peer).values()}


def test_every_call_is_tried(federation: Federation) -> None:
    with Peer(federation.sites["site-1"].folder) as peer:
        assert set(attempts(peer)) == set(METHODS)


def test_without_a_certificate_of_the_authority_no_connection_is_made(federation: Federation) -> None:
    folder = federation.sites["site-1"].folder
    keys = NodeKeys.generate()
    assert all_refused(Peer(folder, certificate="")) == {"tls"}
    assert all_refused(Peer(folder, certificate=self_signed(keys), key=keys.tls_pem())) == {"tls"}
    expired = minted(federation, "site-1", SiteFolder(folder).keys(), hours=-0.01)
    assert all_refused(Peer(folder, certificate=expired)) == {"tls"}


def test_the_authoritys_key_alone_admits_nobody(federation: Federation) -> None:
    """T6: certificates that the stolen key mints, for new names, for a member's name, and for a member's own key."""
    folder = federation.sites["site-1"].folder
    other = NodeKeys.generate()
    for name, keys in (("site-9", other), ("site-1", other), ("site-1", SiteFolder(folder).keys())):
        forged = minted(federation, name, keys)
        assert all_refused(Peer(folder, certificate=forged, key=keys.tls_pem())) == {Denial.UNKNOWN}, name


def test_a_member_may_not_speak_for_another_nor_without_a_session(federation: Federation) -> None:
    with Peer(federation.sites["site-2"].folder) as peer:
        tried = {name: refused(call) for name, call in attempts(peer).items() if name != "Attach"}
    assert tried.pop("Proposals") == "ACCEPTED"  # its own
    assert set(tried.values()) <= {Denial.SUPERSEDED, Denial.NO_SESSION, Denial.PROOF, Denial.FORBIDDEN, Denial.NO_TASK}
    assert federation.shown()["site-1"].status == "member"


def test_the_coordinators_calls_are_refused_on_the_network(federation: Federation) -> None:
    methods = [*STUDY_CALLS, "Invite", "Sites", "Revoke", "Unfreeze", "InstallRoster", "Roster", "Applications"]
    with Peer(federation.sites["site-1"].folder) as peer:
        for method in methods:
            assert refused(partial(peer.raw, method, b"{}", service=COORDINATOR)) == Denial.FORBIDDEN, method
        address = peer.membership.enrolment
        with Peer(federation.sites["site-1"].folder, address=address, certificate="") as outside:
            for method in methods:
                assert refused(partial(outside.raw, method, b"{}", service=COORDINATOR)) == Denial.FORBIDDEN, method
            for method in METHODS:
                assert refused(partial(outside.raw, method, b"{}", service=FEDERATION)) == "tls", method
            for method in ("Begin", "Enrol", "Recover"):
                assert refused(partial(outside.raw, method, b"\xff{", service=ENROLMENT)) == Denial.INVALID, method


def test_a_body_of_600_mb_is_refused_and_not_kept(federation: Federation) -> None:
    server = psutil.Process(federation.server.pid)
    before = server.memory_info().rss
    with Peer(federation.sites["site-1"].folder) as peer:
        options = [("grpc.max_send_message_length", -1), ("grpc.enable_http_proxy", 0)]
        credentials = grpc.ssl_channel_credentials(
            "".join(peer.site.authorities()).encode(), peer.site.keys().tls_pem(), peer.site.certificate().encode()
        )
        with grpc.secure_channel(peer.membership.address, credentials, options=options) as channel:
            decide: Any = channel.unary_unary(f"/{FEDERATION}/Decide")
            with pytest.raises(grpc.RpcError) as error:
                decide(bytes(600_000_000), timeout=60)
            assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert server.memory_info().rss - before < 50_000_000


def test_a_copied_key_is_noticed_and_frozen_and_an_honest_reconnect_is_not(federation: Federation) -> None:
    site = federation.sites["site-2"]
    with Peer(site.folder) as half_open:  # a session beside the agent's, with a higher counter: it takes over ...
        half_open.attach()
        federation.wait_online(site)  # ... and the agent takes it back with the next one
        assert federation.shown()["site-2"].status == "member"
    with Peer(site.folder) as thief:
        began = time.monotonic()
        assert refused(lambda: thief.attach(counter=1)) == Denial.FROZEN
        federation.wait_online(site, online=False, seconds=2.0)
        assert time.monotonic() - began < 2.0
        assert refused(lambda: thief.raw("Proposals", dump(Empty()))) == Denial.FROZEN
    assert federation.shown()["site-2"].status == "frozen"
    assert "site-frozen" in federation.events()
    hansa("server", "unfreeze", "site-2", "--folder", federation.folder)
    federation.wait_online(site)


def test_an_invitation_lets_in_once_and_only_whoever_holds_it(federation: Federation, tmp_path: Path) -> None:
    invitation = read_invitation(federation.invite(Site("site-3", tmp_path, {})))
    owner = OrganisationFolder(federation.sites["site-1"].organisation)
    key = owner.unlock(PASSPHRASE)

    def try_to_join(name: str, **changes: Any) -> str:
        folder = SiteFolder(tmp_path / name)
        request = prepare(folder, invitation)
        binding = sign_binding(request.answer(owner.organisation, issued_at=1), key)
        return refused(lambda: join(folder, invitation.model_copy(update=changes), binding))

    assert try_to_join("guesses", secret="0" * 32) == Denial.PROOF
    assert try_to_join("guesses", id="0" * 32) == Denial.INVITATION
    assert try_to_join("first") == "ACCEPTED"
    assert try_to_join("second") == Denial.INVITATION  # an intercepted string, with other keys
    impostor = invitation.model_copy(update={"authority": self_signed(NodeKeys.generate())})
    with pytest.raises(HansaError):  # an impostor's authority: TLS does not come about, and nothing was sent
        join(SiteFolder(tmp_path / "first"), impostor, _binding_of(tmp_path / "first"))
    with Peer(tmp_path / "first") as waiting:  # enrolled, and not admitted yet
        assert refused(lambda: waiting.raw("Proposals", dump(Empty()))) == Denial.NOT_A_MEMBER


def _binding_of(folder: Path) -> Any:
    return SiteFolder(folder).binding()


def test_revocation_is_in_force_within_two_seconds(federation: Federation) -> None:
    """E8, without the upload; the last test of this federation, for the site does not come back."""
    site = federation.sites["site-1"]
    site.agent.stop()
    federation.wait_online(site, online=False)
    with Peer(site.folder) as peer:
        notices = peer.attach()
        ended: list[str] = []
        reading = threading.Thread(target=lambda: ended.append(refused(lambda: list(notices))))
        reading.start()
        began = time.monotonic()
        hansa("server", "revoke", "site-1", "--folder", federation.folder)
        reading.join(timeout=10.0)
        took = time.monotonic() - began
        assert ended == [Denial.REVOKED]
        assert took < 2.0
        assert {refused(call) for call in attempts(peer).values()} == {Denial.REVOKED}
    with pytest.raises(PeerRefused) as error:
        recover(SiteFolder(site.folder))
    assert error.value.denial == Denial.REVOKED
    assert "site-revoked" in federation.events()
