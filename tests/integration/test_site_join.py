"""Joining over a real connection: the coordinator's membership and Enrolment service, in a thread of this process."""

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hansa_client.calls import call, enrolment_channel
from hansa_client.enrolment import join, prepare, recover
from hansa_client.folder import SiteFolder
from hansa_common.errors import IdentityError, PeerRefused, Unreachable, UsageError
from hansa_common.invitation import Invitation
from hansa_common.organisation import OrganisationFolder, create_organisation
from hansa_common.roster import SignedBinding, sign_binding, sign_roster
from hansa_common.wire import tls
from hansa_common.wire.protocol import ENROLMENT, PROTOCOLS, BeginReply, BeginRequest, Denial
from hansa_server.federation.authority import Authority
from hansa_server.federation.calls import Rates
from hansa_server.federation.enrolment import EnrolmentService
from hansa_server.federation.founding import found, membership_of, request_roster
from hansa_server.federation.membership import Membership
from hansa_server.federation.metrics import Metrics
from hansa_server.federation.settings import ServerSettings

PASSPHRASE = b"correct horse"


@dataclass(frozen=True, slots=True, kw_only=True)
class Coordinator:
    membership: Membership
    organisation: OrganisationFolder

    def bind(self, folder: SiteFolder, invitation: Invitation) -> SignedBinding:
        request = prepare(folder, invitation)
        binding = request.answer(self.organisation.organisation, issued_at=int(time.time()))
        return sign_binding(binding, self.organisation.unlock(PASSPHRASE))

    def admit(self, *members: SignedBinding) -> None:
        following = self.membership.roster().roster.following(members=members, issued_at=2)
        self.membership.install_roster(sign_roster(following, self.organisation.unlock(PASSPHRASE)))


@pytest.fixture(scope="module")
def coordinator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Coordinator]:
    path = tmp_path_factory.mktemp("coordinator")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = ServerSettings(name="thorax", host="127.0.0.1", enrolment_port=port, metrics_address="")
    folder = found(path / "server", settings, PASSPHRASE)
    organisation = create_organisation(path / "org", "Founder", PASSPHRASE)
    request_roster(folder, path / "org" / "organisation.json", is_coordinator=True, key=organisation.unlock(PASSPHRASE))
    authority = Authority.load(folder, PASSPHRASE)
    membership = membership_of(folder, PASSPHRASE)
    with serving(membership, authority, port):
        yield Coordinator(membership=membership, organisation=organisation)


class serving:  # noqa: N801 - a context
    """The Enrolment service on a port, in a thread."""

    def __init__(self, membership: Membership, authority: Authority, port: int) -> None:
        self._parts = membership, authority, port
        self._ready, self._thread = threading.Event(), threading.Thread(target=self._run)

    def __enter__(self) -> None:
        self._thread.start()
        assert self._ready.wait(10)

    def __exit__(self, *_error: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        import grpc

        membership, authority, port = self._parts
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        from datetime import timedelta

        certificate, key = authority.server_certificate("127.0.0.1", lifetime=timedelta(days=1))
        server = grpc.aio.server(options=list(tls.SERVER_OPTIONS))
        service = EnrolmentService(membership, rates=Rates(1e6), metrics=Metrics(), protocols=PROTOCOLS)
        server.add_generic_rpc_handlers((service.handler(),))
        server.add_secure_port(f"127.0.0.1:{port}", tls.server_credentials(key, certificate))
        await server.start()
        self._ready.set()
        await self._stop.wait()
        await server.stop(None)


def test_a_site_joins_and_is_admitted(coordinator: Coordinator, tmp_path: Path) -> None:
    folder, invitation = SiteFolder(tmp_path), coordinator.membership.invite("A")
    binding = coordinator.bind(folder, invitation)
    join(folder, invitation, binding)
    assert folder.membership().founder == invitation.founder
    assert not folder.is_member()
    coordinator.admit(binding)
    folder.accept_roster(coordinator.membership.roster())
    assert folder.is_member()
    assert coordinator.membership.authorise(folder.certificate().encode()) == "A"
    before = folder.certificate()
    recover(folder)
    assert folder.certificate() != before
    assert coordinator.membership.authorise(folder.certificate().encode()) == "A"
    with pytest.raises(UsageError, match="already"):
        prepare(folder, invitation)


def test_joining_goes_on_where_it_was_interrupted(
    coordinator: Coordinator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, invitation = SiteFolder(tmp_path), coordinator.membership.invite("B")
    binding = coordinator.bind(folder, invitation)
    with monkeypatch.context() as patch:
        patch.setattr(SiteFolder, "save_membership", _die)
        with pytest.raises(KeyboardInterrupt):
            join(folder, invitation, binding)
    assert not folder.has_joined
    prepare(folder, invitation)
    kept = folder.binding()
    assert kept == binding
    join(folder, invitation, kept)
    assert folder.has_joined


def _die(*_arguments: Any) -> None:
    raise KeyboardInterrupt


def test_a_used_invitation_is_refused_for_other_keys(coordinator: Coordinator, tmp_path: Path) -> None:
    invitation = coordinator.membership.invite("C")
    first, second = SiteFolder(tmp_path / "1"), SiteFolder(tmp_path / "2")
    join(first, invitation, coordinator.bind(first, invitation))
    with pytest.raises(PeerRefused, match="used before") as raised:
        join(second, invitation, coordinator.bind(second, invitation))
    assert raised.value.denial == Denial.INVITATION
    assert not second.has_joined


def test_nothing_is_proved_to_a_coordinator_of_another_authority(
    coordinator: Coordinator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = found(tmp_path / "other", ServerSettings(name="thorax", host="127.0.0.1", metrics_address=""), PASSPHRASE)
    foreign = Authority.load(other, PASSPHRASE).certificate
    folder, invitation = SiteFolder(tmp_path / "site"), coordinator.membership.invite("D")
    binding = coordinator.bind(folder, invitation)
    begun: list[int] = []
    monkeypatch.setattr(coordinator.membership, "begin", begun.append)
    with pytest.raises(Unreachable):
        join(folder, invitation.model_copy(update={"authority": foreign}), binding)
    assert begun == []
    assert not folder.has_joined


@pytest.mark.parametrize("change", [{"founder": "ab" * 32}, {"federation": "skin"}])
def test_a_roster_of_somebody_else_is_refused_before_anything_is_proved(
    coordinator: Coordinator, tmp_path: Path, change: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = SiteFolder(tmp_path)
    invitation = coordinator.membership.invite("E").model_copy(update=change)
    binding = coordinator.bind(folder, invitation)
    enrolled: list[object] = []
    monkeypatch.setattr(coordinator.membership, "enrol", enrolled.append)
    with pytest.raises(IdentityError):
        join(folder, invitation, binding)
    assert enrolled == []


def test_a_binding_for_other_keys_is_refused_here(coordinator: Coordinator, tmp_path: Path) -> None:
    invitation = coordinator.membership.invite("F")
    first, second = SiteFolder(tmp_path / "1"), SiteFolder(tmp_path / "2")
    binding = coordinator.bind(first, invitation)
    prepare(second, invitation)
    with pytest.raises(UsageError, match="other keys"):
        join(second, invitation, binding)


def test_a_wrong_secret_and_an_expired_invitation_are_refused(coordinator: Coordinator, tmp_path: Path) -> None:
    folder, invitation = SiteFolder(tmp_path), coordinator.membership.invite("G")
    binding = coordinator.bind(folder, invitation)
    with pytest.raises(PeerRefused) as raised:
        join(folder, invitation.model_copy(update={"secret": "0" * 32}), binding)
    assert raised.value.denial == Denial.PROOF
    with pytest.raises(UsageError, match="expired"):
        prepare(folder, invitation.model_copy(update={"expires": 1}))


def test_a_folder_is_one_sites(coordinator: Coordinator, tmp_path: Path) -> None:
    prepare(SiteFolder(tmp_path), coordinator.membership.invite("H"))
    with pytest.raises(UsageError, match="folder of H"):
        prepare(SiteFolder(tmp_path), coordinator.membership.invite("I"))


def test_through_a_proxy_and_only_through_it(
    coordinator: Coordinator, connect_proxy: Any, free_port: Callable[[], int]
) -> None:
    invitation = coordinator.membership.invite("J")
    with enrolment_channel(
        invitation.enrolment, (invitation.authority,), proxy=f"127.0.0.1:{connect_proxy.port}"
    ) as channel:
        assert call(channel, ENROLMENT, "Begin", BeginRequest(), BeginReply).roster.roster.federation == "thorax"
    closed = f"127.0.0.1:{free_port()}"
    with (
        enrolment_channel(invitation.enrolment, (invitation.authority,), proxy=closed) as channel,
        pytest.raises(Unreachable),
    ):
        call(channel, ENROLMENT, "Begin", BeginRequest(), BeginReply)


@pytest.fixture
def free_port() -> Callable[[], int]:
    def find() -> int:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return int(probe.getsockname()[1])

    return find
