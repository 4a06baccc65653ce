"""Takes from the worker process what training does not need: the network, new privileges, writing outside its folder.

A network namespace of its own (unshare(2), also as an ordinary user) has no way out at all. Where the system has none,
Landlock (landlock(7), ABI 4) still blocks TCP, and UDP stays open. Writing is limited by Landlock where there is one.
Nothing here needs root; what the system does not allow is left out and said.
"""

import contextlib
import ctypes
import os
import resource
import struct
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

Network = Literal["none", "udp-open", "open"]

_NEWUSER, _NEWNET = 0x1000_0000, 0x4000_0000
_NO_NEW_PRIVS, _SET_DUMPABLE, _SET_PDEATHSIG = 38, 4, 1
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same on every architecture
_PATH_BENEATH: Final = 1
_WRITES: Final = sum(1 << bit for bit in (1, 4, 5, 6, 7, 8, 9, 10, 11, 12))
_TRUNCATE: Final = 1 << 14  # ABI 3
_TCP: Final = 0b11  # bind and connect; ABI 4
_SIGKILL: Final = 9
_WRITABLE: Final = ("/dev/null", "/dev/zero", "/dev/shm", "/dev/dri", "/proc/self")  # noqa: S108 - shared memory of torch
_PROBE_SECONDS: Final = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Confinement:
    """What a process is cut off from.

    Attributes:
        network: ``none``: no network; ``udp-open``: TCP only is blocked; ``open``: nothing is.
        files: It can write into its own folder only.
    """

    network: Network
    files: bool

    def describe(self) -> str:
        """Say it in words."""
        network = {
            "none": "no network (a namespace of its own)",
            "udp-open": "TCP blocked, UDP open (Landlock)",
            "open": "not confined: the network is open",
        }[self.network]
        return f"{network}; {'writes into its own folder only' if self.files else 'may write where its user may'}"


def confine(folder: Path, *, network: bool, file_bytes: int, processes: int, open_files: int) -> Confinement:
    """Confine this process and its children, for ever; to be called while it has one thread.

    Args:
        folder: Where it may write.
        network: Whether the network is taken away.
        file_bytes: Largest file that it may write.
        processes: Processes and threads of its user; not enforced for root.
        open_files: Files that it may have open.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_SET_PDEATHSIG, _SIGKILL, 0, 0, 0)
    libc.prctl(_SET_DUMPABLE, 0, 0, 0, 0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _limit(resource.RLIMIT_FSIZE, file_bytes)
    _limit(resource.RLIMIT_NPROC, processes)
    _limit(resource.RLIMIT_NOFILE, open_files)
    has_namespace = network and _own_network(libc)
    libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0)
    files, tcp = _landlock(libc, folder, block_tcp=network and not has_namespace)
    state: Network = "udp-open" if tcp else "open"
    if has_namespace:
        state = "none"
    return Confinement(network=state, files=files)


def probe() -> Confinement:
    """Return what this machine allows, tried in a process of its own."""
    code = (
        "import sys, pathlib; from hansa_client.confinement import confine; "
        "c = confine(pathlib.Path('/tmp'), network=True, file_bytes=1 << 30, processes=1 << 16, open_files=1024); "
        "print(c.network, c.files)"
    )
    found = subprocess.run(  # noqa: S603 - this interpreter, this package
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=_PROBE_SECONDS, check=False
    )
    network, _, files = found.stdout.strip().partition(" ")
    known: dict[str, Network] = {"none": "none", "udp-open": "udp-open"}
    return Confinement(network=known.get(network, "open"), files=files == "True")


def _limit(kind: int, value: int) -> None:
    _soft, hard = resource.getrlimit(kind)
    wanted = value if hard == resource.RLIM_INFINITY else min(value, hard)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(kind, (wanted, wanted))


def _own_network(libc: ctypes.CDLL) -> bool:
    """Move into a network namespace in which there is nothing, not even a loopback that is up."""
    uid, gid = os.getuid(), os.getgid()
    if libc.unshare(_NEWNET) == 0:
        return True
    if libc.unshare(_NEWUSER | _NEWNET) != 0:
        return False
    with contextlib.suppress(OSError):
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
        Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
    return True


def _landlock(libc: ctypes.CDLL, folder: Path, *, block_tcp: bool) -> tuple[bool, bool]:
    """Allow writing below ``folder`` only, and no TCP; tell which of the two the kernel took."""
    abi = libc.syscall(_CREATE_RULESET, None, 0, 1)
    if abi < 1:
        return False, False
    writes = _WRITES | (_TRUNCATE if abi >= 3 else 0)  # noqa: PLR2004 - see above
    tcp = _TCP if block_tcp and abi >= 4 else 0  # noqa: PLR2004 - see above
    attributes = struct.pack("=QQ", writes, tcp) if abi >= 4 else struct.pack("=Q", writes)  # noqa: PLR2004
    ruleset = libc.syscall(_CREATE_RULESET, attributes, len(attributes), 0)
    if ruleset < 0:
        return False, False
    try:
        for path in _writable(folder):
            _allow(libc, ruleset, path, writes)
        if libc.syscall(_RESTRICT_SELF, ruleset, 0) != 0:
            return False, False
    finally:
        os.close(ruleset)
    return True, tcp != 0


def _writable(folder: Path) -> Iterable[Path]:
    yield folder
    yield from (Path(name) for name in _WRITABLE)
    yield from Path("/dev").glob("nvidia*")


def _allow(libc: ctypes.CDLL, ruleset: int, path: Path, writes: int) -> None:
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_PATH)
        try:
            allowed = writes if path.is_dir() else writes & (1 << 1 | _TRUNCATE)
            rule = struct.pack("=Qi", allowed, descriptor)
            libc.syscall(_ADD_RULE, ruleset, _PATH_BENEATH, rule, 0)
        finally:
            os.close(descriptor)
