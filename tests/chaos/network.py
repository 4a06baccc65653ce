"""A federation whose coordinator and sites have a network each, and a provider between them that delays and loses (E3).

Every host is a network namespace with one link, to the provider's; nothing of this machine's network is touched, and
nothing is routed: who connects to the provider's public address is relayed to the coordinator. Namespaces are made as
root, or by anybody in a user namespace. Where the system allows neither, everything runs on the loopback.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final, Literal, Self

import psutil
from tests.chaos.cutting_proxy import CuttingProxy, Weather
from tests.chaos.federation import Federation, Site
from tests.chaos.processes import HANSA, Process

Kind = Literal["root", "user", "loopback"]
KINDS: Final[tuple[Kind, ...]] = ("root", "user") if os.geteuid() == 0 else ("user",)
_REPOSITORY = Path(__file__).parents[2]
_PUBLIC = "10.77.0.1"
_COMMAND = 60.0  # seconds
_LISTENING = "0A"  # state of a TCP socket in /proc/net/tcp


class Host:
    """One host of a network.

    Args:
        address: Its own.
        prefix: Command line before a program's that runs it here; none on the loopback.
    """

    def __init__(self, address: str, prefix: Sequence[str] = ()) -> None:
        self.address = address
        self._prefix = tuple(prefix)

    def process(
        self, *arguments: object, log: Path, program: str | Path = HANSA, environment: Mapping[str, str] | None = None
    ) -> Process:
        """Return a process that will run here; its id is the program's own, not a wrapper's."""
        command = [*self._prefix, str(program), *map(str, arguments)]
        return Process(*command[1:], log=log, program=command[0], environment=environment)

    def hansa(self, *arguments: object, log: Path, code: int = 0, environment: Mapping[str, str] | None = None) -> str:
        """Run one command of the ``hansa`` line here to its end and return all that it wrote, errors too.

        Raises:
            AssertionError: It ended with another exit code.
        """
        before = log.stat().st_size if log.exists() else 0
        process = self.process(*arguments, log=log, environment=environment)
        process.start()
        try:
            found = process.wait(_COMMAND)
        finally:
            process.close()
        written = log.read_bytes()[before:].decode()
        assert found == code, f"{arguments}: exit code {found}\n{written}"
        return written


class Network:
    """The provider, the coordinator's host and one for each site, for as long as the block lasts.

    Args:
        sites: How many.
        kinds: Ways to make namespaces, the first that is permitted is taken; ``loopback`` where none is.
    """

    def __init__(self, sites: int, *, kinds: Sequence[Kind] = KINDS) -> None:
        self.kind: Kind = "loopback"
        self.reason = ""
        """Why there are no namespaces, where there are none."""
        self.namespaces: list[str] = []
        self.public = "127.0.0.1"
        """Where the provider takes connections to the coordinator."""
        self.provider = Host(self.public)
        self.coordinator = Host("127.0.0.2")
        self.sites = [Host(self.public) for _ in range(sites)]
        self._kinds = kinds
        self._held = ExitStack()

    def __enter__(self) -> Self:
        for kind in self._kinds:
            try:
                with ExitStack() as stack:
                    self._make(kind, stack)
                    self._held = stack.pop_all()
            except (OSError, subprocess.SubprocessError) as error:
                self.reason += f"{kind}: {getattr(error, 'stderr', None) or error}. "
            else:
                self.kind, self.reason = kind, ""
                break
        return self

    def __exit__(self, *_error: object) -> None:
        self._held.close()

    def _make(self, kind: Kind, stack: ExitStack) -> None:
        """Make all namespaces and their links.

        Raises:
            OSError, SubprocessError: It is not permitted, or iproute2 or util-linux is missing.
        """
        middle = stack.enter_context(_Namespace(("unshare", *(("-Ur",) if kind == "user" else ()), "-n"), kind))
        middle.run("ip", "address", "add", f"{_PUBLIC}/32", "dev", "lo")
        hosts = []
        for number in range(1, len(self.sites) + 2):
            own = stack.enter_context(_Namespace((*middle.prefix, "unshare", "-n"), kind))
            near, far, net = f"up{number}", "uplink", f"10.77.{number}"
            middle.run(
                *("ip", "link", "add", near, "type", "veth", "peer", "name", far, "netns", str(own.pid)),
            )
            middle.run("ip", "address", "add", f"{net}.1/30", "dev", near)
            middle.run("ip", "link", "set", near, "up")
            own.run("ip", "address", "add", f"{net}.2/30", "dev", far)
            own.run("ip", "link", "set", far, "up")
            own.run("ip", "route", "add", "default", "via", f"{net}.1")
            hosts.append((own, Host(f"{net}.2", own.prefix)))
        self.namespaces = [found.name for found in (middle, *(own for own, _host in hosts))]
        self.provider, self.public = Host(_PUBLIC, middle.prefix), _PUBLIC
        self.coordinator, *self.sites = (host for _own, host in hosts)


class _Namespace:
    """A network namespace that is there while a process of its own reads from us: it ends with us, however we do."""

    def __init__(self, command: Sequence[str], kind: Kind) -> None:
        self._holder = subprocess.Popen(
            [*command, "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        self.pid = self._holder.pid
        self.name = ""
        user = ("-U", "--preserve-credentials") if kind == "user" else ()
        self.prefix = ("nsenter", "-t", str(self.pid), *user, "-n")

    def __enter__(self) -> Self:
        try:
            self._wait_until_inside()
            self.name = str(Path(f"/proc/{self.pid}/ns/net").readlink())
            self.run("ip", "link", "set", "lo", "up")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_error: object) -> None:
        self._holder.kill()
        self._holder.communicate()

    def _wait_until_inside(self) -> None:
        assert self._holder.stdin is not None
        assert self._holder.stdout is not None
        self._holder.stdin.write(b"in\n")
        self._holder.stdin.flush()
        if self._holder.stdout.readline() != b"in\n":
            raise PermissionError(self._holder.communicate()[1].decode().strip())

    def run(self, *command: str) -> None:
        """Run a command in it."""
        subprocess.run([*self.prefix, *command], check=True, capture_output=True, text=True, timeout=_COMMAND)


class NetworkedSite(Site):
    """A site on a host of its own."""

    def __init__(self, name: str, folder: Path, host: Host) -> None:
        super().__init__(name, folder, {})
        self.host = host
        self.agent = host.process("site", "start", "--folder", self.folder, log=folder / f"{self.folder.name}.log")
        self._log = folder / f"{self.folder.name}-commands.log"

    def hansa(self, *arguments: object, code: int = 0) -> str:
        return self.host.hansa("site", *arguments, "--folder", self.folder, log=self._log, code=code)


class NetworkedFederation(Federation):
    """A federation on a network; its sites know the provider's address only.

    Args:
        folder: For everything; empty.
        network: Its hosts.
        sites: Their names.
        data: TOML for site.toml by the name of the site.
        weather: What the provider does all the time.
    """

    def __init__(
        self, folder: Path, network: Network, sites: Sequence[str], *, data: Mapping[str, str], weather: Weather
    ) -> None:
        super().__init__(
            folder, sites, data=data, settings={"host": network.public, "listen": network.coordinator.address}
        )
        self.sites = {name: NetworkedSite(name, folder, host) for name, host in zip(sites, network.sites, strict=True)}
        self.server = network.coordinator.process(
            "server", "start", "--folder", self.folder, *self._passphrase, log=folder / "server.log"
        )
        path = {
            "public": network.public,
            "coordinator": network.coordinator.address,
            "ports": [self.enrolment_port, self.federation_port],
            "delay": weather.delay,
            "loss": weather.loss,
        }
        self._traffic = folder / "provider.log"
        self._provider = network.provider.process(
            *("-m", "tests.chaos.network", json.dumps(path)),
            log=self._traffic,
            program=sys.executable,
            environment={"PYTHONPATH": str(_REPOSITORY)},
        )

    def __enter__(self) -> Self:
        self._provider.start()
        return super().__enter__()

    def close(self) -> None:
        super().close()
        self._provider.close()

    def traffic(self) -> dict[str, int]:
        """End the provider and return what went through it: connections, bytes ``up`` and ``down``."""
        self._provider.stop()
        lines = self._traffic.read_text().splitlines()  # asyncio may have written about cut connections too
        found: dict[str, int] = json.loads(next(line for line in lines if line.startswith("{")))
        return found


class _Provider(CuttingProxy):
    """Takes connections at a public address."""

    def __init__(self, public: str, port: int, coordinator: str) -> None:
        super().__init__(port, host=coordinator, seed=port)
        self._public = (public, port)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._accept, *self._public)


def listening(process: Process) -> set[int]:
    """Return the TCP ports on which a process, or one that it started, accepts connections; from inside its network."""
    tree = [psutil.Process(process.pid)]
    tree += tree[0].children(recursive=True)
    return {port for member in tree for inode, port in _accepting(member.pid) if inode in _sockets(member.pid)}


def _sockets(pid: int) -> set[str]:
    """Return the inodes of a process's sockets."""
    found = set()
    for path in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found.add(str(path.readlink()).removeprefix("socket:[").removesuffix("]"))
        except FileNotFoundError:
            continue
    return found


def _accepting(pid: int) -> Iterator[tuple[str, int]]:
    """Yield inode and port of every socket in a process's network that accepts connections."""
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == _LISTENING:
                yield fields[9], int(fields[1].rpartition(":")[2], 16)


def accepting_in_network_of(process: Process) -> set[int]:
    """Return the TCP ports on which anybody accepts connections in a process's network namespace."""
    return {port for _inode, port in _accepting(process.pid)}


def main(path: str) -> None:
    """Relay until SIGTERM, then write what went through."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    settings = json.loads(path)
    with ExitStack() as stack:
        proxies = [
            stack.enter_context(_Provider(settings["public"], port, settings["coordinator"]))
            for port in settings["ports"]
        ]
        for proxy in proxies:
            proxy.set(Weather(delay=settings["delay"], loss=settings["loss"]))
        signal.sigwait({signal.SIGTERM})
        names = ("accepted", "up", "down")
        sys.stdout.write(json.dumps({name: sum(getattr(proxy, name) for proxy in proxies) for name in names}) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
