"""Files about single examples: written where the work is done, and taken from there to where the site keeps its model.

The worker is confined to its scratch folder, so the agent takes the files over; what it finds there is not trusted.
"""

import os
import re
import shutil
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from hansa_common.files import storage, write_whole

MOST_FILES: Final = 1_000
MOST_BYTES: Final = 64 << 20  # of one file
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,60}\.(?:png|csv)")


def keep_files(folder: Path | None, files: Mapping[str, bytes]) -> None:
    """Write files that only their owner can read, in the place of those that were there; nothing without a folder.

    Raises:
        StorageError: The disk is full or fails.
    """
    if folder is None or not files:
        return
    with storage(folder, "create"):
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(mode=0o700, parents=True)
    for name, content in files.items():
        write_whole(folder / name, content, mode=0o600)


def take_files(scratch: Path, place: tuple[str, str], target: Path) -> int:
    """Move what the worker left in a folder of its scratch folder to ``target``; return how many files.

    Links, folders, names of another form and files that are too large are left out: the worker may have been taken
    over by what it read. All below ``scratch`` is the worker's to change at any moment, so no part of the way there is
    a path that is looked up twice, or followed where it is a link: what is deleted in the end could else be anything
    that the agent may delete.

    Args:
        scratch: The worker's folder.
        place: Names of a folder in it, and of one in that.
        target: Replaced by what is found.

    Raises:
        StorageError: The disk is full or fails.
    """
    outer = _folder(scratch / place[0])
    if outer is None:
        return 0
    try:
        inner = _folder(place[1], within=outer)
        if inner is None:
            return 0
        try:
            with storage(scratch, "read"), os.scandir(inner) as entries:
                names = sorted(entry.name for entry in entries if _NAME.fullmatch(entry.name))[:MOST_FILES]
                found = {name: content for name in names if (content := _content(name, inner)) is not None}
        finally:
            os.close(inner)
        with storage(scratch, "tidy"):
            shutil.rmtree(place[1], dir_fd=outer)  # follows no link on its way down
    finally:
        os.close(outer)
    keep_files(target, found)
    return len(found)


def _folder(path: str | Path, *, within: int | None = None) -> int | None:
    """Return a descriptor of a folder; ``None`` where it is none, or a link."""
    try:
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=within)
    except OSError:
        return None


def _content(name: str, within: int) -> bytes | None:
    """Return what a regular file holds; ``None`` where it is none, or too large."""
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=within)
    except OSError:
        return None
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_size > MOST_BYTES:
        os.close(descriptor)
        return None
    with os.fdopen(descriptor, "rb") as file:
        return file.read(MOST_BYTES)
