"""Files that are there whole, durably, or as they were before."""

import contextlib
import io
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from hansa_common.errors import IdentityError, StorageError
from hansa_common.failpoints import reach

_OTHERS = 0o077  # permission bits that nobody but the owner may have


def write_whole(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Write a file so that it is there whole, durably, or as it was before.

    Raises:
        StorageError: The disk is full or fails; nothing half-written is left.
    """
    write_pieces(path, [content], mode=mode)


def write_pieces(path: Path, pieces: Iterable[bytes | memoryview], *, mode: int = 0o644) -> None:
    """Write a file as ``write_whole`` does, without having all of it in memory.

    Raises:
        StorageError: The disk is full or fails; nothing half-written is left.
    """
    with storage(path, "write"):
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(descriptor, "wb") as file:
                for piece in pieces:
                    file.write(piece)
                file.flush()
                sync_file(file.fileno(), "file.sync")
            Path(temporary).chmod(mode)
            reach("file.before-rename")
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def sync_file(descriptor: int, place: str) -> None:
    """Make a file's content durable, once: after a failure nothing that was written counts, whatever a second try says.

    The kernel takes pages that it could not write for clean, so a second fsync succeeds and proves nothing.

    Args:
        descriptor: Of the file.
        place: Name of the fail point.

    Raises:
        OSError: The disk fails.
    """
    reach(place)
    os.fsync(descriptor)


def sync_folder(folder: Path) -> None:
    """Make durable which files a folder has.

    Raises:
        OSError: The disk fails.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_secret(path: Path, content: bytes) -> None:
    """Write a new file that only its owner can read, durably.

    Raises:
        StorageError: There is such a file already, or it cannot be written.
    """
    if path.exists():
        raise StorageError(f"{path} exists already.", advice="A key is never overwritten: move it away first.")
    write_whole(path, content, mode=0o600)


def read_secret(path: Path) -> bytes:
    """Read a file that only its owner may read.

    Raises:
        StorageError: It is missing or cannot be read.
        IdentityError: Others can read it.
    """
    with storage(path, "read", advice="Restore it from a backup."):
        if path.stat().st_mode & _OTHERS:
            raise IdentityError(
                f"{path} can be read by others than its owner.", advice=f"Run 'chmod 600 {path}', if nobody read it."
            )
        return path.read_bytes()


@contextlib.contextmanager
def storage(
    path: Path,
    verb: str,
    *,
    advice: str = "Free space or mend the disk, then continue with --resume; nothing half-written is left.",
) -> Iterator[None]:
    """Turn what the disk says into one error with advice."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"Cannot {verb} {path}: {error.strerror}.", advice=advice) from error


class LogFile(io.TextIOWrapper):
    """A log that ends nothing: what the disk does not take goes to standard error.

    Args:
        path: Of the file; lines are added at its end.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path, "a"), encoding="utf-8", write_through=True)

    def write(self, text: str) -> int:
        """Write a line."""
        try:
            return super().write(text)
        except OSError:
            return sys.stderr.write(text)
