"""The federation's folder: everything that a coordinator has, in one place that can be backed up.

server.toml       settings              authority/   root certificate and its encrypted key
hansa.db          state                 server/      the server's own certificate and key
journal.jsonl     what was decided      exchange/    tasks and replies under way
server.log        what happened         runs/<study> what each study reached
"""

import fcntl
import os
from pathlib import Path
from typing import Self

from hansa_common.errors import UsageError
from hansa_common.files import storage
from hansa_server.federation.settings import ServerSettings, read_settings, write_settings


class FederationFolder:
    """Paths of one federation's folder; only its owner can look into it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.authority = path / "authority"
        self.server = path / "server"
        self.founder = path / "founder"
        self.database = path / "hansa.db"
        self.journal = path / "journal.jsonl"
        self.log = path / "server.log"
        self.runs = path / "runs"
        self.exchange = path / "exchange"
        self._lock: int | None = None

    @classmethod
    def create(cls, path: Path, settings: ServerSettings) -> Self:
        """Make the folder of a new federation.

        Raises:
            UsageError: There is something in it already.
            StorageError: It cannot be made.
        """
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise UsageError(f"{path} exists and is not empty.", advice="Name another folder with --folder.")
        folder = cls(path)
        with storage(path, "create", advice="Check --folder."):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.chmod(0o700)
            for part in (folder.authority, folder.server, folder.runs, folder.exchange):
                part.mkdir(mode=0o700)
        write_settings(path / "server.toml", settings)
        return folder

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open a federation's folder.

        Raises:
            UsageError: It is none.
        """
        if not (path / "server.toml").is_file():
            raise no_federation(path)
        return cls(path)

    def settings(self) -> ServerSettings:
        """Read the settings.

        Raises:
            SettingsError: They are not valid.
        """
        return read_settings(self.path / "server.toml")

    def lock(self) -> None:
        """Keep other processes out until this one ends.

        Raises:
            UsageError: A server runs on this folder.
        """
        with storage(self.path, "lock", advice="Mend the disk."):
            self._lock = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            self._lock = None
            raise UsageError(f"A server runs on {self.path}.", advice="Two cannot share a folder.") from None

    def unlock(self) -> None:
        """Let other processes in."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def no_federation(path: Path) -> UsageError:
    """Return what is said of a folder that holds no federation."""
    return UsageError(
        f"{path} is no federation's folder.", advice="Make one with 'hansa server init', or name it: --folder."
    )
