"""A study's own process: ``python -m hansa_server.federation.runner FOLDER STUDY PARENT``, started by the coordinator.

It conducts the study on engine ``federation``, from its last checkpoint where there is one. Killed at any moment, it is
started again and asks for the same tasks, whose replies are stored: nothing is trained or counted twice.
"""

import ctypes
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Literal

from hansa_common.app_plan import AppPlan, read_any
from hansa_common.errors import HansaError, StudyInterrupted
from hansa_common.heap import keep_small
from hansa_common.plan import StudyPlan
from hansa_common.roster import SignedRoster
from hansa_common.settings import Strict
from hansa_server.app import server_app
from hansa_server.conduct import conduct, stop_on_signal
from hansa_server.engines.federation import FederationGrid
from hansa_server.engines.flower_app import load_server_app, run_server_app
from hansa_server.exchange import Exchange
from hansa_server.federation.control import Control, Done, FinishRequest, StudyReply, StudyRequest
from hansa_server.federation.events import EventLog
from hansa_server.federation.folder import FederationFolder
from hansa_server.outcome import results_of
from hansa_server.report import model_card
from hansa_server.store import RunFolder
from hansa_server.study import Study

_PR_SET_PDEATHSIG = 1
_log = logging.getLogger(__name__)


def main(path: Path, study: str) -> None:
    """Conduct one study and tell the coordinator how it ended."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    folder = FederationFolder(path)
    control = Control(path)
    state: Literal["completed", "stopped", "failed"] = "completed"
    reason = ""
    try:
        row = control.call("Begin", StudyRequest(study=study), StudyReply)
        reason = _run(folder, control, row)
    except StudyInterrupted as error:
        state, reason = "stopped", error.message
    except HansaError as error:
        state, reason = "failed", str(error)
    except Exception as error:  # noqa: BLE001 - the traceback is for the study's log, the operator is told where to look
        _log.exception("The study failed.")
        state, reason = "failed", f"Unexpected {type(error).__name__}; its study.log has the details."
    control.call("Finish", FinishRequest(study=study, state=state, reason=reason[:10_000]), Done)
    control.close()


def _run(folder: FederationFolder, control: Control, row: StudyReply) -> str:
    """Conduct the study; return what is left to do, empty where nothing is."""
    plan = read_any(row.plan)
    grid = FederationGrid(
        control=control,
        folder=folder.exchange / row.study,
        study=row.study,
        attempt=row.attempt,
        sites=[site for site in row.sites if site in row.approved],
    )
    with stop_on_signal() as stop:
        if isinstance(plan, AppPlan):
            run_server_app(load_server_app(plan.server_app, Path.cwd()), grid, dict(plan.run_config))
            return ""
        signers = control.call("Roster", Done(), _InForce).signers()
        return _run_study(plan, folder.runs / row.study, grid, row, stop, signers=signers)


class _InForce(Strict):
    """The answer to ``Roster``; its own type is in a module that loads the database."""

    roster: SignedRoster

    def signers(self) -> dict[str, str]:
        """Return the members' signing keys."""
        return {member.binding.site: member.binding.keys.signing for member in self.roster.roster.members}


def _run_study(
    plan: StudyPlan,
    path: Path,
    grid: FederationGrid,
    row: StudyReply,
    stop: threading.Event,
    *,
    signers: Mapping[str, str],
) -> str:
    folder = RunFolder(path)
    folder.lock()
    folder.save_plan(plan)
    events = EventLog(path)
    study = Study(
        plan=plan,
        folder=folder,
        engine="federation",
        observer=events,
        names=row.sites,
        signers=signers,
        attempt=row.attempt,
    )

    def whole(exchange: Exchange) -> None:
        study.run(exchange)
        results = results_of(study, run=str(path), status="completed", reason="")
        study.deliver(exchange, card=model_card(results, plan), sha256=results.model_sha256)

    try:
        conduct(study, folder, partial(run_on_grid, grid, whole, stop))
    finally:
        events.close()
        folder.close()
    missed = [f"{site}: {problem}" for site, problem in sorted(study.delivered.items()) if problem]
    if not missed:
        return ""
    return "\n".join(["These sites did not get the model; resume the study when they can take it.", *missed])


def run_on_grid(grid: FederationGrid, whole: Callable[[Exchange], None], stop: threading.Event) -> None:
    """Run a study's ServerApp on the federation."""
    app = server_app(whole, stop, nodes=len(grid.names), names=grid.names)
    run_server_app(app, grid, {})


def _die_with(parent: int) -> None:
    """Have the kernel end this process when the coordinator's is gone: a new one will take its place."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(1)


if __name__ == "__main__":
    _die_with(int(sys.argv[3]))
    keep_small()
    main(Path(sys.argv[1]), sys.argv[2])
