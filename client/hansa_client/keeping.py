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


def take_files(source: Path, target: Path) -> int:
    """Move what the worker left in ``source`` to ``target``; return how many files.

    Links, folders, names of another form and files that are too large are left out: the worker may have been taken
    over by what it read.

    Raises:
        StorageError: The disk is full or fails.
    """
    if source.is_symlink() or not source.is_dir():
        return 0
    with storage(source, "read"):
        names = sorted(path.name for path in source.iterdir() if _NAME.fullmatch(path.name))[:MOST_FILES]
        found = {name: content for name in names if (content := _content(source / name)) is not None}
        shutil.rmtree(source)
    keep_files(target, found)
    return len(found)


def _content(path: Path) -> bytes | None:
    """Return what a regular file holds; ``None`` where it is none, or too large."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_size > MOST_BYTES:
        os.close(descriptor)
        return None
    with os.fdopen(descriptor, "rb") as file:
        return file.read(MOST_BYTES)
