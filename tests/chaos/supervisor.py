"""Starts again what dies, as systemd would, and remembers when."""

import threading
import time
from collections.abc import Mapping
from typing import Self

from tests.chaos.federation import Federation
from tests.chaos.processes import Process

_LOOK = 0.02  # seconds


class Supervisor:
    """Keeps a federation's processes running.

    Args:
        federation: Whose.
        environment: For the coordinator's next starts, beside its own.
    """

    def __init__(self, federation: Federation, environment: Mapping[str, str]) -> None:
        self.deaths: list[tuple[float, Process]] = []
        self._processes = [federation.server, *(site.agent for site in federation.sites.values())]
        self._environment = {federation.server: dict(environment)}
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._done.wait(_LOOK):
            for process in self._processes:
                if not process.is_running:
                    self.deaths.append((time.monotonic(), process))
                    process.start(**self._environment.get(process, {}))
