"""Starts a study's process when its sites have answered, and starts it again when it dies."""

import asyncio
import contextlib
import os
import signal
import sys
import time
from typing import IO, Final

import structlog

from hansa_server.federation.folder import FederationFolder
from hansa_server.federation.hub import Hub
from hansa_server.federation.studies import ENDED, StudyRow

_log = structlog.get_logger()
_MOST_DEATHS: Final = 5  # within _FORGIVEN; a process that dies for its own reasons is not started for ever
_FORGIVEN: Final = 60.0  # seconds
_LOOK: Final = 5.0  # seconds between looks at the clock, for answers that do not come
_STOP_SECONDS: Final = 20.0


class Runners:
    """The studies' processes.

    Args:
        folder: The federation's.
        hub: Where their states are.
    """

    def __init__(self, folder: FederationFolder, hub: Hub) -> None:
        self._folder = folder
        self._hub = hub
        self._running: dict[str, asyncio.Task[None]] = {}
        self._processes: dict[str, asyncio.subprocess.Process] = {}
        self._stopping: set[str] = set()

    async def advance(self) -> None:
        """Start what can start, for as long as the server runs."""
        while True:
            for row in self._hub.studies.all():
                try:
                    self._look_at(row)
                except Exception:  # noqa: BLE001 - one study's trouble is not the others'
                    _log.exception("study", study=row.id)
            self._hub.metrics.running.set(len(self._running))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._hub.studies_changed.wait(), _LOOK)
            self._hub.studies_changed.clear()

    def _look_at(self, row: StudyRow) -> None:
        if row.state == "proposed" and self._is_decided(row):
            if len(row.approved) >= row.needed:
                row = self._hub.studies.set_state(row.id, "running")
                self._hub.journal.append("study-started", study=row.id, sites=len(row.approved))
            else:
                reason = f"{len(row.approved)} of {len(row.sites)} sites approved it, {row.needed} are needed."
                self._hub.finish(row.id, "failed", reason)
        if row.state == "running" and row.id not in self._running:
            self._running[row.id] = asyncio.create_task(self._keep_running(row.id))

    def _is_decided(self, row: StudyRow) -> bool:
        """Tell whether there is nothing more to wait for."""
        waited = time.time() - row.proposed_at
        return not row.silent or waited > self._hub.settings.approval_hours * 3_600

    async def _keep_running(self, study: str) -> None:
        """Run a study's process until the study has ended."""
        deaths: list[float] = []
        try:
            while self._hub.studies.find(study).state == "running":
                code = await self._run_once(study)
                if study in self._stopping or self._hub.studies.find(study).state in ENDED:
                    return
                now = time.monotonic()
                deaths = [death for death in deaths if now - death < _FORGIVEN] + [now]
                _log.error("study process died", study=study, code=code)
                if len(deaths) > _MOST_DEATHS:
                    self._hub.finish(study, "failed", f"Its process died {len(deaths)} times in a minute; see its log.")
        finally:
            self._running.pop(study, None)
            self._processes.pop(study, None)

    async def _run_once(self, study: str) -> int:
        run = self._folder.runs / study
        run.mkdir(parents=True, exist_ok=True)
        with (run / "study.log").open("ab") as log:
            process = await self._start(study, log)
            self._processes[study] = process
            return await process.wait()

    async def _start(self, study: str, log: IO[bytes]) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "hansa_server.federation.runner",
            str(self._folder.path),
            study,
            str(os.getpid()),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=os.environ | {"FLWR_TELEMETRY_ENABLED": "0"},
            process_group=0,
        )

    async def stop(self, row: StudyRow) -> None:
        """Stop a study; what it reached is in its run folder."""
        if row.state in ENDED:
            return
        process = self._processes.get(row.id)
        if process is not None and process.returncode is None:
            process.send_signal(signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), _STOP_SECONDS)
        self._hub.finish(row.id, "stopped", "Its operator stopped it.")

    async def close(self) -> None:
        """End the processes because the server ends; their studies go on when it is back."""
        self._stopping.update(self._running)
        for process in self._processes.values():
            if process.returncode is None:
                process.kill()
        await asyncio.gather(*self._running.values(), return_exceptions=True)
