"""A whole federation in one folder: the coordinator, organisations and sites as real processes on the loopback."""

import json
import re
import socket
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

from tests.chaos.processes import Process, Result, hansa, wait_until

from hansa_common.errors import HansaError
from hansa_server.federation import control
from hansa_server.federation.administration import Nothing, ShownSite, SitesReply
from hansa_server.federation.control import Done, StudiesReply, StudyReply

PASSPHRASE = b"correct horse battery staple"
_ENDED = ("completed", "stopped", "failed")
_AT_A_TIME = 2  # commands; each of them is one core's work
_SETTINGS: Mapping[str, Any] = {"listen": "127.0.0.1", "metrics_address": "", "heartbeat_seconds": 0.5}
_DATA = '[data.default]\nadapter = "digits"\n'


class Site:
    """One site: its folder and its agent.

    Args:
        name: Of the site.
        folder: Of the federation; the site's own, its organisation's and its log lie in it.
        environment: For its agent.
    """

    def __init__(self, name: str, folder: Path, environment: Mapping[str, str]) -> None:
        slug = re.sub("[^a-z0-9]+", "-", name.lower())
        self.name = name
        self.folder = folder / slug
        self.organisation = folder / f"{slug}-org"
        self.agent = Process(
            "site", "start", "--folder", self.folder, log=folder / f"{slug}.log", environment=environment
        )

    def configure(self, text: str) -> None:
        """Add to ``site.toml``; in force from the agent's next start."""
        with (self.folder / "site.toml").open("a", encoding="utf-8") as file:
            file.write(f"\n{text}")

    def connect_through(self, port: int) -> None:
        """Have the agent connect to another port of this machine, a proxy's; in force from its next start."""
        path = self.folder / "membership.json"
        membership = json.loads(path.read_text())
        path.write_text(json.dumps(membership | {"address": f"127.0.0.1:{port}"}))

    def hansa(self, *arguments: object, code: int = 0) -> str:
        """Run ``hansa site ...`` for this site."""
        return hansa("site", *arguments, "--folder", self.folder, code=code)

    def events(self) -> list[str]:
        """Return the events in the site's record, in their order."""
        return events(self.folder / "journal.jsonl")


class Federation:
    """A coordinator and its sites.

    Args:
        folder: For everything; empty.
        sites: Their names.
        settings: Keys of server.toml with other values than a test's usual ones.
        data: TOML for site.toml by the name of the site; a site that is not named gets all of digits.
        environment: For all long-running processes.
    """

    def __init__(
        self,
        folder: Path,
        sites: Sequence[str] = ("Site 1", "Site 2", "Site 3"),
        *,
        settings: Mapping[str, Any] | None = None,
        data: Mapping[str, str] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.path = folder
        self.folder = folder / "server"
        self.sites = {name: Site(name, folder, environment or {}) for name in sites}
        self.enrolment_port, self.federation_port = free_ports(2)
        self._settings = {**_SETTINGS, **(settings or {})}
        self._data = data or {}
        self._passphrase = ("--passphrase-file", folder / "passphrase")
        self.server = Process(
            "server",
            "start",
            "--folder",
            self.folder,
            *self._passphrase,
            log=folder / "server.log",
            environment=environment,
        )

    def __enter__(self) -> Self:
        try:
            self.found()
            self.start_server()
            self.join(*self.sites.values())
            self.admit(*self.sites.values())
            self.start_sites()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def close(self) -> None:
        """End every process."""
        for process in (self.server, *(site.agent for site in self.sites.values())):
            process.close()

    # --- Making it, step by step ----------------------------------------------------------------------------------

    def found(self) -> None:
        """Make the coordinator's folder, founded by itself."""
        self._passphrase[1].touch(mode=0o600)
        self._passphrase[1].write_bytes(PASSPHRASE)
        ports = ("--enrolment-port", self.enrolment_port, "--federation-port", self.federation_port)
        founder = ("--founder-is-coordinator", *self._passphrase)
        hansa("server", "init", "--name", "test", "--host", "127.0.0.1", "--folder", self.folder, *ports, *founder)
        self.configure(self._settings)

    def configure(self, settings: Mapping[str, Any]) -> None:
        """Change keys of ``server.toml``; in force from the server's next start."""
        path = self.folder / "server.toml"
        text = path.read_text()
        for name, value in settings.items():
            text, found = re.subn(rf"(?m)^{name} = .*$", f"{name} = {json.dumps(value)}", text)
            assert found == 1, f"server.toml has no key {name}"
        path.write_text(text)

    def start_server(self, **environment: str) -> None:
        """Start the coordinator and wait until it answers; ``environment`` is for this start only."""
        self.server.start(**environment)
        wait_until(lambda: self._call("Sites", SitesReply), "the server", blame=self.server.check)

    def join(self, *sites: Site) -> None:
        """Make each site's organisation, invite it and have it join, all on this machine."""

        def one(site: Site) -> None:
            hansa("org", "init", "--name", f"{site.name} gGmbH", "--folder", site.organisation, *self._passphrase)
            same_machine = ("--same-machine", "--organisation", site.organisation, *self._passphrase)
            site.hansa("join", self.invite(site), *same_machine)
            site.configure(self._data.get(site.name, _DATA))

        with ThreadPoolExecutor(_AT_A_TIME) as pool:
            list(pool.map(one, sites))

    def invite(self, site: Site) -> str:
        """Return a new invitation."""
        return hansa("server", "invite", site.name, "--folder", self.folder).split()[-1]

    def admit(self, *sites: Site) -> None:
        """Sign the next rosters, one a site, and put them into force."""
        for site in sites:
            self.founder("admit", site)

    def expel(self, site: Site) -> None:
        """Sign the next roster without this site, and put it into force."""
        self.founder("expel", site)

    def founder(self, command: str, site: Site) -> str:
        """Run ``hansa org admit`` or ``expel`` as the founder."""
        own = ("--server", self.folder, "--folder", self.folder / "founder", *self._passphrase, "--yes")
        return hansa("org", command, site.name, *own)

    def start_sites(self, *sites: Site) -> None:
        """Start agents, of all sites where none is named, and wait until they are attached."""
        chosen = sites or tuple(self.sites.values())
        for site in chosen:
            site.agent.start()
        for site in chosen:
            self.wait_online(site)

    # --- What it does ---------------------------------------------------------------------------------------------

    def shown(self) -> dict[str, ShownSite]:
        """Return what ``hansa server sites`` shows."""
        reply = self._call("Sites", SitesReply)
        assert reply is not None, self.server.check()
        return {site.name: site for site in reply.sites}

    def wait_online(self, site: Site, *, online: bool = True, seconds: float = 30.0) -> None:
        """Wait until the coordinator sees this site attached, or gone."""

        def look() -> bool:
            reply = self._call("Sites", SitesReply)
            row = next((row for row in reply.sites if row.name == site.name), None) if reply is not None else None
            return row is not None and (row.online_since is not None) == online

        wait_until(
            look,
            f"{site.name} to be {'online' if online else 'offline'}",
            seconds=seconds,
            blame=site.agent.check if online else str,
        )

    def propose(self, *arguments: object) -> str:
        """Propose a study and return its id."""
        before = {row.study for row in self.studies()}
        hansa("server", "run", *arguments, "--folder", self.folder, "--detach")
        (study,) = {row.study for row in self.studies()} - before
        return study

    def approve(self, study: str, *sites: Site) -> None:
        """Have sites approve a study, all where none is named."""
        for site in sites or tuple(self.sites.values()):
            proposal = site.folder / "proposals" / f"{study}.json"
            wait_until(proposal.exists, f"the proposal at {site.name}", blame=site.agent.check)
            site.hansa("approve", study)

    def run(self, plan: Path, *options: object, seconds: float = 120.0) -> StudyReply:
        """Run a study to its end."""
        study = self.propose(plan, *options)
        self.approve(study)
        return self.wait_ended(study, seconds=seconds)

    def studies(self) -> tuple[StudyReply, ...]:
        """Return the coordinator's studies; none while it does not answer."""
        reply = self._call("Studies", StudiesReply)
        return () if reply is None else reply.studies

    def study(self, name: str) -> StudyReply | None:
        """Return one study, or ``None`` while the coordinator does not answer."""
        return next((row for row in self.studies() if row.study == name), None)

    def wait_ended(self, study: str, *, seconds: float = 120.0) -> StudyReply:
        """Wait until a study is over, however it ended; the coordinator may be killed and started meanwhile."""

        def look() -> StudyReply | None:
            row = self.study(study)
            return row if row is not None and row.state in _ENDED else None

        return wait_until(look, f"the end of {study}", seconds=seconds, blame=lambda: self.tail(study))

    def wait_for(self, look: Callable[[], Result | None], what: str, *, seconds: float = 30.0) -> Result:
        """Wait for anything; the message on failure has the server's last lines."""
        return wait_until(look, what, seconds=seconds, blame=self.tail)

    def run_folder(self, study: str) -> Path:
        """Return where a study's results lie."""
        return self.folder / "runs" / study

    def events(self) -> list[str]:
        """Return the events in the coordinator's record, in their order."""
        return events(self.folder / "journal.jsonl")

    def tail(self, study: str = "") -> str:
        """Return the last lines of the logs, for a message."""
        logs = [self.folder / "server.log", self.server.log]
        if study:
            logs.append(self.run_folder(study) / "study.log")
        return "\n".join(f"--- {log.name}\n{log.read_text(errors='replace')[-2_000:]}" for log in logs if log.exists())

    def _call(self, method: str, reply: type[Any]) -> Any:
        """Ask the running coordinator; ``None`` where it does not answer."""
        request = Nothing() if method == "Sites" else Done()
        try:
            return control.call(self.folder, method, request, reply)
        except (HansaError, OSError):
            return None


def events(journal: Path) -> list[str]:
    """Return the events of a journal, in their order; without a line that is being written."""
    lines = journal.read_bytes().split(b"\n")[:-1] if journal.exists() else []
    return [str(json.loads(line)["event"]) for line in lines]


def free_ports(number: int) -> list[int]:
    """Return ports of the loopback that nobody listens on now."""
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [int(listener.getsockname()[1]) for listener in held]
    for listener in held:
        listener.close()
    return ports
