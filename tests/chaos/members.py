"""A coordinator process with members, made without the commands: what tests of many calls and few seconds need."""

import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from tests.chaos.federation import free_ports
from tests.chaos.peer import Peer
from tests.chaos.processes import Process, wait_until
from typer.testing import CliRunner

from hansa_client.control import ask
from hansa_client.enrolment import enrol_request
from hansa_client.folder import SiteFolder
from hansa_client.membership import SiteMembership
from hansa_common.errors import HansaError
from hansa_common.identity import NodeKeys
from hansa_common.invitation import Invitation, read_invitation
from hansa_common.organisation import OrganisationFolder, create_organisation
from hansa_common.roster import Binding, SignedBinding, sign_binding, sign_roster
from hansa_common.settings import Model, Strict
from hansa_common.wire.protocol import BeginReply, DecideRequest, Decision, EnrolRequest, TaskId, sign_decision
from hansa_server import authority_cli
from hansa_server.federation import control
from hansa_server.federation.administration import (
    InviteReply,
    Nothing,
    RosterReply,
    RosterRequest,
    ShownSite,
    SitesReply,
)
from hansa_server.federation.administration import SiteRequest as OneSite
from hansa_server.federation.authority import Authority
from hansa_server.federation.control import Done, PushedTask, PushRequest, StudyReply, StudyRequest
from hansa_server.federation.founding import found, membership_of, request_roster
from hansa_server.federation.membership import Membership
from hansa_server.federation.settings import ServerSettings

PASSPHRASE = b"correct horse battery staple"
NAME = "test"


class Members:
    """A running coordinator and sites that are members of it; their agents are started by ``agent``.

    Args:
        folder: For everything; empty.
        sites: Their names.
        settings: Of the coordinator, beside a test's usual ones.
        expired: Sites whose first certificate is good for no time at all.
    """

    def __init__(self, folder: Path, sites: Sequence[str], *, expired: Sequence[str] = (), **settings: Any) -> None:
        ports = free_ports(2)
        usual = {
            "name": NAME,
            "host": "127.0.0.1",
            "listen": "127.0.0.1",
            "enrolment_port": ports[0],
            "federation_port": ports[1],
            "metrics_address": "",
            "heartbeat_seconds": 0.5,
            "calls_per_second": 1e6,
        }
        self.path = folder
        self.folder = found(folder / "server", ServerSettings.model_validate(usual | settings), PASSPHRASE)
        self.owner: OrganisationFolder = create_organisation(self.folder.founder, "Founder gGmbH", PASSPHRASE)
        self.key = self.owner.unlock(PASSPHRASE)
        request_roster(self.folder, self.owner.path / "organisation.json", is_coordinator=True, key=self.key)
        self.root = Authority.load(self.folder, PASSPHRASE)
        self._membership = membership_of(self.folder, PASSPHRASE)
        self.log = folder / "server.out"
        self._agents: list[Process] = []
        self._server: subprocess.Popen[bytes] | None = None
        self._enrol(sites, expired)

    def _enrol(self, names: Sequence[str], expired: Sequence[str]) -> None:
        """Let the sites in, and bind them all with one roster."""
        bindings = []
        for name in names:
            with self.setting(**({"certificate_hours": 1e-9} if name in expired else {})) as membership:
                bindings.append(self._join(membership, name))
        roster = self._membership.roster().roster.following(members=bindings, issued_at=int(time.time()))
        self._membership.install_roster(sign_roster(roster, self.key))

    @contextmanager
    def setting(self, **settings: Any) -> Iterator[Membership]:
        """Yield the membership with other settings for a moment; only before the coordinator runs."""
        assert self._server is None, "its record has one writer"
        before = self._membership._settings
        self._membership._settings = before.model_copy(update=settings)
        try:
            yield self._membership
        finally:
            self._membership._settings = before

    def _join(self, membership: Membership, name: str) -> SignedBinding:
        invitation = membership.invite(name)
        folder, begun = SiteFolder(self.path / name), membership.begin(1)
        request = self.enrolment(folder, invitation, begun)
        folder.save_membership(SiteMembership.of(invitation), begun.roster, membership.enrol(request))
        return request.binding

    def enrolment(self, folder: SiteFolder, invitation: Invitation, begun: BeginReply) -> EnrolRequest:
        """Make a site's folder and keys, and what it asks the coordinator with."""
        if not folder.path.exists():
            folder.create()
            folder.make_keys()
        keys = folder.keys()
        binding = Binding(
            federation=NAME,
            site=invitation.site,
            organisation=self.owner.organisation,
            keys=keys.public(),
            issued_at=int(time.time()),
        )
        return enrol_request(keys, invitation, sign_binding(binding, self.key), nonce=begun.nonce)

    # --- processes ---

    def __enter__(self) -> Self:
        with self.log.open("wb") as log:
            command = [sys.executable, "-m", "hansa_server.federation.process", str(self.folder.path)]
            self._server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log)
        assert self._server.stdin is not None
        self._server.stdin.write(PASSPHRASE + b"\n")
        self._server.stdin.close()
        wait_until(self._answers, "the coordinator", blame=self.check)
        return self

    def __exit__(self, *_error: object) -> None:
        for agent in self._agents:
            agent.close()
        if self._server is not None:
            self._server.terminate()
            self._server.wait(20.0)

    @property
    def pid(self) -> int:
        """Of the coordinator."""
        assert self._server is not None
        return self._server.pid

    def check(self) -> str:
        """Return what the coordinator wrote; it must be running."""
        assert self._server is not None
        assert self._server.poll() is None, self.log.read_text()
        return self.log.read_text()

    def agent(self, site: str) -> Process:
        """Start a site's agent."""
        agent = Process(
            "-m", "hansa_client.agent", self.path / site, log=self.path / f"{site}.out", program=sys.executable
        )
        agent.start()
        self._agents.append(agent)
        return agent

    def _answers(self) -> bool:
        try:
            return bool(self.shown())
        except HansaError:
            return False

    # --- sites ---

    def peer(self, site: str, **options: Any) -> Peer:
        """Connect with a site's identity."""
        return Peer(self.path / site, **options)

    def stranger(self, site: str) -> Peer:
        """Connect to the enrolment port, without a certificate."""
        return self.peer(site, address=self.folder.settings().enrolment_address, certificate="")

    def keys(self, site: str) -> NodeKeys:
        """Return a site's keys."""
        return SiteFolder(self.path / site).keys()

    def approval(self, site: str, study: StudyReply, *, approved: bool = True, decided_at: int = 1) -> DecideRequest:
        """Return a site's signed answer."""
        decision = Decision(
            federation=NAME, site=site, study=study.study, digest=study.digest, approved=approved, decided_at=decided_at
        )
        return sign_decision(decision, self.keys(site).signing)

    def answer(self, site: str, study: StudyReply) -> None:
        """Approve a study at a site whose agent runs."""
        folder = SiteFolder(self.path / site)
        folder.save_decision(self.approval(site, study))
        told = ask(folder.path, {"command": "wake"})
        assert told is not None
        assert "error" not in told

    # --- the coordinator ---

    def call(self, method: str, request: Strict, reply: type[Model]) -> Model:
        """Make one of the operator's calls."""
        return control.call(self.folder.path, method, request, reply)

    def invite(self, site: str) -> Invitation:
        """Return a new invitation."""
        return read_invitation(self.call("Invite", OneSite(site=site), InviteReply).invitation)

    def revoke(self, site: str) -> None:
        """Shut a site out."""
        self.call("Revoke", OneSite(site=site), Nothing)

    def unfreeze(self, site: str) -> None:
        """Let a frozen site back in."""
        self.call("Unfreeze", OneSite(site=site), Nothing)

    def authority(self, command: str, *options: str) -> str:
        """Make one of ``hansa server authority``'s commands and return what it says."""
        arguments = [command, "--folder", str(self.folder.path), *options]
        result = CliRunner().invoke(authority_cli.app, arguments, env={authority_cli.VARIABLE: PASSPHRASE.decode()})
        if isinstance(result.exception, HansaError):
            raise result.exception
        assert result.exit_code == 0, result.output
        return result.output

    def install(self, *members: SignedBinding) -> None:
        """Have the founder sign the next roster."""
        current = self.call("Roster", Nothing(), RosterReply).roster.roster
        roster = sign_roster(current.following(members=members, issued_at=int(time.time())), self.key)
        self.call("InstallRoster", RosterRequest(roster=roster), Nothing)

    def bindings(self) -> dict[str, SignedBinding]:
        """Return the members of the roster in force."""
        roster = self.call("Roster", Nothing(), RosterReply).roster.roster
        return {member.binding.site: member for member in roster.members}

    def shown(self) -> dict[str, ShownSite]:
        """Return what the operator is shown of each site."""
        return {site.name: site for site in self.call("Sites", Nothing(), SitesReply).sites}

    def push(self, *tasks: TaskId, content: bytes = b"a task", max_reply: int = 1 << 20) -> None:
        """Ask sites something."""
        sha256 = hashlib.sha256(content).hexdigest()
        for task in tasks:
            path = self.folder.exchange / task.study / f"task-{sha256}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        pushed = tuple(
            PushedTask(task=task, content=sha256, size=len(content), max_reply=max_reply, seconds=600.0)
            for task in tasks
        )
        self.call("Push", PushRequest(study=tasks[0].study, tasks=pushed), Done)

    def study(self, name: str) -> StudyReply:
        """Return a study as it stands."""
        return self.call("Begin", StudyRequest(study=name), StudyReply)

    def journal(self) -> list[dict[str, Any]]:
        """Return the coordinator's record."""
        return [json.loads(line) for line in self.folder.journal.read_bytes().splitlines()]

    def events(self, site: str) -> list[str]:
        """Return what the record says of a site."""
        return [str(entry["event"]) for entry in self.journal() if site in json.dumps(entry)]
