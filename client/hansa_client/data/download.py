"""Files from the internet into the user's cache: checked, bounded, and there completely or not at all."""

import fcntl
import hashlib
import http.client
import os
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hansa_common.errors import DataUnavailable, StorageError

_CHUNK = 1 << 18  # bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteFile:
    """A file that its publisher describes by size and checksum.

    Attributes:
        url: Where it is, ``https``.
        name: What it is called in the cache.
        md5: Its published MD5. Nobody is known to find a second file for a given MD5; HTTPS protects the way.
        size: Bytes; more are never read.
    """

    url: str
    name: str
    md5: str
    size: int


def cache_folder() -> Path:
    """Return the folder for downloads: ``$XDG_CACHE_HOME/hansa``, or ``~/.cache/hansa`` (XDG Base Directory 0.8)."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if Path(base).is_absolute() else Path.home() / ".cache") / "hansa"


def fetch(
    remote: RemoteFile, *, folder: Path | None = None, timeout_seconds: float = 30.0, limit_seconds: float = 3_600.0
) -> Path:
    """Return the file's path in the cache, downloading it first if it is not there.

    Processes that ask at the same time wait for one download. It goes to a temporary file that gets its name only when
    size and checksum are right, so an interrupted one leaves nothing that looks complete.

    Args:
        remote: What to get.
        folder: Where to keep it; the user's cache where left out.
        timeout_seconds: How long the server may be silent.
        limit_seconds: How long all of it may take.

    Raises:
        DataUnavailable: The server cannot be reached, is too slow, or sends something else.
        StorageError: The cache cannot be written.
    """
    folder = cache_folder() if folder is None else folder
    target = folder / remote.name
    if _is_there(target, remote):
        return target
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / f"{remote.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not _is_there(target, remote):
                _download(remote, target, timeout_seconds, time.monotonic() + limit_seconds)
    except OSError as error:
        raise StorageError(
            f"{target} cannot be written: {error.strerror or error}.", advice="Free space, or set XDG_CACHE_HOME."
        ) from error
    return target


def _is_there(target: Path, remote: RemoteFile) -> bool:
    """The checksum was right when the file got its name."""
    return target.is_file() and target.stat().st_size == remote.size


def _download(remote: RemoteFile, target: Path, timeout: float, deadline: float) -> None:
    with tempfile.NamedTemporaryFile(dir=target.parent, prefix=f"{remote.name}.", delete=False) as file:
        try:
            for chunk in _verified(_show_progress(_receive(remote, timeout, deadline), remote), remote):
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
            Path(file.name).replace(target)
        except BaseException:  # an interrupt too leaves nothing behind
            Path(file.name).unlink(missing_ok=True)
            raise


def _verified(chunks: Iterator[bytes], remote: RemoteFile) -> Iterator[bytes]:
    """Pass chunks on, and fail at the end if they were not the file."""
    digest = hashlib.md5(usedforsecurity=False)
    received = 0
    for chunk in chunks:
        digest.update(chunk)
        received += len(chunk)
        yield chunk
    if received != remote.size or digest.hexdigest() != remote.md5:
        raise _failure(
            remote,
            f"received {received:,} bytes with MD5 {digest.hexdigest()}, expected {remote.size:,} bytes with "
            f"{remote.md5}",
        )


def _receive(remote: RemoteFile, timeout: float, deadline: float) -> Iterator[bytes]:
    """Yield what the server sends, at most one byte more than expected."""
    if not remote.url.startswith(("https://", "http://")):
        raise RuntimeError(f"{remote.url} is no web address.")
    remaining = remote.size + 1
    try:
        with urllib.request.urlopen(remote.url, timeout=timeout) as response:  # noqa: S310 the scheme is checked above
            while remaining and (chunk := response.read(min(_CHUNK, remaining))):
                remaining -= len(chunk)
                if time.monotonic() > deadline:
                    raise TimeoutError("it took too long")
                yield chunk
    except urllib.error.HTTPError as error:
        error.close()  # it holds the connection
        raise _failure(remote, str(error)) from error
    except (OSError, http.client.HTTPException) as error:
        raise _failure(remote, str(error)) from error


def _show_progress(chunks: Iterator[bytes], remote: RemoteFile) -> Iterator[bytes]:
    """Draw a bar on a terminal, and nothing elsewhere."""
    if not sys.stderr.isatty():
        yield from chunks
        return
    from rich.console import Console
    from rich.progress import DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), *Progress.get_default_columns()[1:], DownloadColumn())
    with Progress(*columns, TransferSpeedColumn(), console=Console(stderr=True)) as progress:
        task = progress.add_task(remote.name, total=remote.size)
        for chunk in chunks:
            progress.advance(task, len(chunk))
            yield chunk


def _failure(remote: RemoteFile, reason: str) -> DataUnavailable:
    return DataUnavailable(
        f"{remote.url} could not be downloaded: {reason}.",
        advice="Check the network, or download the file by other means and set path to it.",
    )
