"""Named places where a process can be made to die, to show that nothing is lost there; off by default.

``HANSA_FAIL_POINTS="server.store.after@2:/tmp/mark"`` kills the process with SIGKILL the second time that it gets to
``server.store.after``, once: the file marks that it has happened, so the process that takes over lives on. Several are
separated by commas. Names are registered here, so a misspelt one is an error and not a test that tests nothing.

``HANSA_FAIL_POINTS="journal.sync@2!:/tmp/mark"`` lets the second fsync of a journal fail instead, as a broken disk's.
"""

import errno
import os
import re
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hansa_common.errors import UsageError

VARIABLE: Final = "HANSA_FAIL_POINTS"

SYNCS: Final = ("file.sync", "journal.sync", "server.reply.sync", "site.reply.sync")
"""Where what was written is made durable: the only places that can be made to fail instead."""

NAMES: Final = (
    "server.task.before-write",
    "server.task.after-write",
    "server.send",
    "server.reply.before-store",
    "server.reply.after-store",
    "server.acknowledge",
    "study.aggregate",
    "study.checkpoint.before",
    "study.checkpoint.after",
    "file.before-rename",
    "journal.append",
    "site.task.received",
    "site.train",
    "site.reply.before-write",
    "site.reply.after-write",
    "site.send",
    "site.acknowledged",
    "site.ledger.written",
    *SYNCS,
)


_COUNT = re.compile(r"[1-9][0-9]{0,8}(!?)")


@dataclass(slots=True)
class _Armed:
    hits_left: int
    mark: Path
    fails: bool


def _read(text: str) -> dict[str, _Armed]:
    armed: dict[str, _Armed] = {}
    for entry in filter(None, text.split(",")):
        name, _, rest = entry.partition("@")
        hits, _, mark = rest.partition(":")
        count = _COUNT.fullmatch(hits)
        if name not in NAMES or name in armed or not count or not mark or (count[1] and name not in SYNCS):
            raise UsageError(
                f"{VARIABLE}: found '{entry}'.",
                advice=f"Allowed is NAME@HIT:FILE, a name once; names: {NAMES}; NAME@HIT!:FILE for {SYNCS}.",
            )
        if not Path(mark).exists():
            armed[name] = _Armed(int(hits.removesuffix("!")), Path(mark), bool(count[1]))
    return armed


_armed = _read(os.environ.get(VARIABLE, ""))


def reach(name: str) -> None:
    """Die here if this place is armed and it is time.

    Raises:
        OSError: It is armed to fail.
    """
    if not _armed:
        return
    if name not in NAMES:
        raise RuntimeError(f"There is no fail point '{name}'.")
    if (armed := _armed.get(name)) is None:
        return
    armed.hits_left -= 1
    if armed.hits_left <= 0 and not armed.mark.exists():
        armed.mark.touch()
        if armed.fails:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        os.kill(os.getpid(), signal.SIGKILL)
