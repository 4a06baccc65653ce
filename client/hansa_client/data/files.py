"""Where an adapter's file or folder lies."""

import math
from collections.abc import Sequence
from pathlib import Path

from hansa_client.data.source import Source
from hansa_common.errors import DataUnavailable, SettingsError

MAX_ARRAY = 16 << 30  # bytes uncompressed; more does not belong in memory


def require_path(source: Source, *, adapter: str, folder: bool | None) -> Path:
    """Return the path of a source, ``~`` expanded.

    Args:
        source: The site's settings.
        adapter: Its name, for the message.
        folder: Whether it must be a folder (``True``), a file (``False``) or either (``None``).

    Raises:
        SettingsError: There is no path.
        DataUnavailable: Nothing is there, or a file for a folder, or the other way round.
    """
    if source.path is None:
        raise SettingsError(f"The data adapter '{adapter}' needs a path.", path="path", advice="Set path.")
    path = source.path.expanduser()
    if not path.exists():
        start = "" if path.is_absolute() else "; it starts at the current folder"
        raise DataUnavailable(f"{path} does not exist.", advice=f"Check the path{start}.")
    if folder is not None and path.is_dir() != folder:
        kinds = ("a folder", "a file") if folder else ("a file", "a folder")
        raise DataUnavailable(f"The data adapter '{adapter}' reads {kinds[0]}; {path} is {kinds[1]}.")
    return path


def require_memory(examples: int, shape: Sequence[int], *, origin: str) -> None:
    """Return if so many examples of numbers may be taken memory for.

    Raises:
        DataUnavailable: They may not.
    """
    if (size := 4 * examples * math.prod(shape)) > MAX_ARRAY:
        raise DataUnavailable(
            f"{origin}: about {examples:,} examples of {list(shape)} take {size:,} bytes; at most {MAX_ARRAY:,} are "
            "read.",
            advice="Read less of it, or ask for a plan with a larger stride.",
        )
