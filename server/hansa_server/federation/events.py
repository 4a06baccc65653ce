"""A study's progress as lines in its run folder: written by its process, shown by whoever looks.

Each line is one call of an ``Observer``, as JSON; ``follow`` makes the same calls again, in another process, now or
later. A line is progress for people and nothing is decided by it.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from hansa_common.files import LogFile
from hansa_common.messages import Opened
from hansa_server.notice import Notice
from hansa_server.observer import Observer
from hansa_server.results import RoundResult

EVENTS: Final = "events.jsonl"


class EventLog:
    """An observer that writes.

    Args:
        folder: The run's.
    """

    def __init__(self, folder: Path) -> None:
        self._file = LogFile(folder / EVENTS)

    def opened(self, sites: Mapping[str, Opened], failed: Mapping[str, str]) -> None:
        """See ``Observer``."""
        shown = {site: opened.model_dump(mode="json") for site, opened in sites.items()}
        self._write("opened", sites=shown, failed=dict(failed))

    def round_started(self, number: int, sites: tuple[str, ...]) -> None:
        """See ``Observer``."""
        self._write("round_started", number=number, sites=sites)

    def site_done(self, site: str, problem: str) -> None:
        """See ``Observer``."""
        self._write("site_done", site=site, problem=problem)

    def round_closed(self, result: RoundResult) -> None:
        """See ``Observer``."""
        self._write("round_closed", result=result.model_dump(mode="json"))

    def noticed(self, notice: Notice) -> None:
        """See ``Observer``."""
        self._write("noticed", notice=notice.model_dump(mode="json"))

    def stage(self, name: str) -> None:
        """See ``Observer``."""
        self._write("stage", name=name)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, event: str, **values: Any) -> None:
        self._file.write(json.dumps({"event": event} | values) + "\n")


class EventReader:
    """Reads what another process writes.

    Args:
        folder: The run's.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / EVENTS
        self._position = 0

    def new(self) -> Iterator[dict[str, Any]]:
        """Yield the events since the last call."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._position)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self._position += len(line)
                with contextlib.suppress(ValueError):  # a full disk took half of a line
                    yield json.loads(line)


def show(event: Mapping[str, Any], observer: Observer) -> None:
    """Make the call that an event was."""
    match event["event"]:
        case "opened":
            sites = {site: Opened.model_validate_json(json.dumps(value)) for site, value in event["sites"].items()}
            observer.opened(sites, event["failed"])
        case "round_started":
            observer.round_started(event["number"], tuple(event["sites"]))
        case "site_done":
            observer.site_done(event["site"], event["problem"])
        case "round_closed":
            observer.round_closed(RoundResult.model_validate_json(json.dumps(event["result"])))
        case "noticed":
            observer.noticed(Notice.model_validate_json(json.dumps(event["notice"])))
        case "stage":
            observer.stage(event["name"])
