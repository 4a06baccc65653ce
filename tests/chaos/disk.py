"""A disk of a few megabytes that really runs full: a tmpfs in a user and mount namespace, as anybody may have.

The namespace is there as long as a process of its own is, so nothing stays mounted. Programs that work on the disk run
in it; the test looks at the disk through that process's ``/proc/<pid>/root``.
"""

import errno
import shutil
import subprocess
from pathlib import Path
from typing import Final, Self

from tests.chaos.processes import HANSA, Process

_MAKE: Final = 'mount -t tmpfs -o size="$1" tmpfs "$2" && echo made && exec cat'
_BALLAST: Final = "ballast"
_PIECE: Final = 4096  # bytes; a page, the least that a tmpfs gives away


class SmallDisk:
    """A disk for as long as the block lasts.

    Args:
        folder: Where it is mounted, in the namespace only; what is there is copied onto it.
        size: Bytes.
    """

    def __init__(self, folder: Path, size: int) -> None:
        self.folder = folder
        self._size = size
        self._holder: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        """Make it.

        Raises:
            OSError: The system allows no such namespace; the text says what it said.
        """
        self._holder = subprocess.Popen(
            ["unshare", "-Urm", "sh", "-c", _MAKE, "sh", str(self._size), str(self.folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert self._holder.stdout is not None
        assert self._holder.stderr is not None
        if self._holder.stdout.readline() != b"made\n":
            said = self._holder.stderr.read().decode(errors="replace").strip()
            self.__exit__()
            raise OSError(errno.EPERM, said)
        shutil.copytree(self.folder, self.path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.sock"))
        return self

    def __exit__(self, *_error: object) -> None:
        assert self._holder is not None
        self._holder.communicate()

    @property
    def path(self) -> Path:
        """Where it is for who is not in the namespace."""
        assert self._holder is not None
        return Path(f"/proc/{self._holder.pid}/root{self.folder}")

    def process(self, *arguments: object, log: Path) -> Process:
        """Return a ``hansa`` command that will find the disk where ``folder`` is."""
        assert self._holder is not None
        enter = ("--target", self._holder.pid, "--user", "--mount", "--preserve-credentials", HANSA)
        return Process(*enter, *arguments, log=log, program="nsenter")

    def fill(self, *logs: Path) -> None:
        """Leave not a page free, and in these files not a byte of their last page either."""
        with (self.path / _BALLAST).open("ab", buffering=0) as file:
            try:
                while file.write(bytes(_PIECE)):
                    pass
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
        for log in logs:
            with log.open("ab", buffering=0) as file:
                file.write(b"\n" * (-file.tell() % _PIECE))

    def free(self) -> None:
        """Give the space back."""
        (self.path / _BALLAST).unlink(missing_ok=True)
