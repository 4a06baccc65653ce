"""The coordinator's one place where membership, studies, tasks and live sessions meet; runs on the event loop."""

import asyncio
import contextlib
import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Final

import structlog

from hansa_common.audit import Journal
from hansa_common.errors import PeerRefused
from hansa_common.wire.protocol import (
    AnyNotice,
    AttachRequest,
    DecideRequest,
    Denial,
    LeaveRequest,
    RosterNotice,
    StudyClosed,
    TaskClosed,
    TaskId,
)
from hansa_server.federation.attendance import Attendance
from hansa_server.federation.membership import Membership
from hansa_server.federation.metrics import Metrics
from hansa_server.federation.sessions import Session, Sessions
from hansa_server.federation.settings import ServerSettings
from hansa_server.federation.studies import ENDED, State, Studies, StudyRow, proposal_of
from hansa_server.federation.tasks import NewTask, Outcome, Tasks, is_round

_MOMENT: Final = 0.002  # seconds
_log = structlog.get_logger()


class Hub:
    """State and events of one coordinator.

    Args:
        settings: Of the federation's folder.
        membership: Who belongs to it.
        attendance: Who is there.
        studies: What is studied.
        tasks: What is asked.
        journal: The coordinator's record.
        metrics: Its figures.
    """

    def __init__(
        self,
        *,
        settings: ServerSettings,
        membership: Membership,
        attendance: Attendance,
        studies: Studies,
        tasks: Tasks,
        journal: Journal,
        metrics: Metrics,
    ) -> None:
        self.settings = settings
        self.membership = membership
        self.attendance = attendance
        self.studies = studies
        self.tasks = tasks
        self.journal = journal
        self.metrics = metrics
        self.sessions = Sessions(settings.max_sessions)
        self.changed = asyncio.Condition()  # outcomes of tasks
        self.studies_changed = asyncio.Event()
        self._roster_version = max((roster.roster.version for roster in membership.rosters_after(0)), default=0)
        self._receivers: dict[str, asyncio.Task[object]] = {}
        self._wakers: set[asyncio.Task[None]] = set()

    @staticmethod
    def now() -> float:
        """Return the Unix time in seconds."""
        return time.time()

    def authorise(self, certificate: bytes) -> str:
        """Return the site that a certificate is of, if it is a member now.

        Raises:
            PeerRefused: It is not.
        """
        return self.membership.authorise(certificate)

    def refused(self, denial: str) -> None:
        """Count a refused call."""
        self.metrics.refused(denial)

    def attach(self, site: str, request: AttachRequest) -> Session:
        """Begin a site's session.

        Raises:
            PeerRefused: Its counter was used before: a copied key. Both are cut off and the site is frozen.
        """
        try:
            self.membership.attach(site, request)
        except PeerRefused as error:
            if error.denial == Denial.FROZEN:
                self.cut_off(site, Denial.FROZEN, "It is frozen: two sessions claimed its identity.")
            raise
        session = self.sessions.open(site)
        self.attendance.mark_online(site)
        self._show_online()
        _log.info("attached", site=site, counter=request.counter, version=request.version)
        return session

    def detach(self, session: Session) -> None:
        """End a session whose stream is over."""
        if self.sessions.close(session):
            self.attendance.mark_offline(session.site)
        self._show_online()
        _log.info("detached", site=session.site, reason=str(session.ended))

    def _show_online(self) -> None:
        self.metrics.online.set(len(self.sessions.online))

    def rosters_after(self, version: int) -> Iterator[RosterNotice]:
        """Yield the rosters that a site has not seen, in the order in which they follow upon each other."""
        return map(self.membership.certification.notice, self.membership.rosters_after(version))

    def pending(self, site: str) -> list[AnyNotice]:
        """Return what an attaching site is told at once: proposals and open tasks."""
        return [*self.studies.proposals_for(site), *self.tasks.open_for(site)]

    def cut_off(self, site: str, denial: Denial, reason: str) -> None:
        """End a site's session and calls, and give up what it was asked."""
        self.sessions.end(site, denial)
        if self.tasks.fail_site(site, reason):
            self.wake()
        _log.warning("cut off", site=site, denial=str(denial))

    def membership_changed(self) -> None:
        """Cut off whoever is no longer a member, and tell the others of a new roster."""
        members = self.membership.members()
        for site in [site for site in self.sessions.online if site not in members]:
            self.cut_off(site, Denial.REVOKED, "It is not a member any more, or its membership is suspended.")
        for roster in self.membership.rosters_after(self._roster_version):
            self._roster_version = roster.roster.version
            for site in self.sessions.online:
                self.sessions.tell(site, self.membership.certification.notice(roster))
        for site in self.membership.certification.retired_sites():
            self.sessions.end(site, Denial.UNKNOWN)  # its tasks wait: it is back with a new certificate

    def leave(self, site: str, request: LeaveRequest) -> None:
        """Let a site go."""
        self.membership.leave(request, site=site)
        self.cut_off(site, Denial.REVOKED, "It left the federation.")

    def content(self, site: str, task: TaskId) -> tuple[Path, int]:
        """Return the file and size of a task's bytes.

        Raises:
            PeerRefused: It is not this site's, or not open.
        """
        notice = self.tasks.open_task(task, site)
        if notice is None:
            raise PeerRefused("This task is replied to.", denial=Denial.NO_TASK)
        return self.tasks.content_path(task.study, notice.sha256), notice.size

    @contextlib.contextmanager
    def receiving(self, task: TaskId) -> Iterator[None]:
        """Keep a second upload of one reply from writing into the first."""
        current = asyncio.current_task()
        assert current is not None
        if str(task) in self._receivers:
            raise PeerRefused("This reply is being received; ask how much is stored.", denial=Denial.OFFSET)
        self._receivers[str(task)] = current
        try:
            yield
        except asyncio.CancelledError:
            if self._receivers.get(str(task)) is current:
                raise
            raise PeerRefused("The site gave this upload up and asked anew.", denial=Denial.OFFSET) from None
        finally:
            if self._receivers.get(str(task)) is current:  # and not the upload that has taken its place
                del self._receivers[str(task)]

    def drop_receiver(self, task: TaskId) -> None:
        """Give up an upload that its site has given up: it asks how much is stored."""
        if (receiver := self._receivers.pop(str(task), None)) is not None:
            receiver.cancel()

    def replied(self, task: TaskId) -> None:
        """A reply is stored."""
        self.metrics.replied()
        self.attendance.mark_round(task.site, str(task))
        self.wake()

    def wake(self) -> None:
        """Wake everybody who waits for outcomes; what happens in the same moment wakes them once."""
        if self._wakers:
            return

        async def notify() -> None:
            await asyncio.sleep(_MOMENT)
            self._wakers.clear()
            async with self.changed:
                self.changed.notify_all()

        self._wakers.add(asyncio.get_running_loop().create_task(notify()))

    async def decide(self, site: str, request: DecideRequest) -> None:
        """Take in a site's answer to a proposal.

        Raises:
            PeerRefused: It is not its own, or not about this plan.
        """
        key = self.membership.signing_key(site)
        row = self.studies.decide(request, site=site, key=key, federation=self.settings.name)
        approved = request.decision.approved
        self.journal.append("study-approved" if approved else "study-refused", study=row.id, site=site)
        self.studies_changed.set()

    def propose(self, row: StudyRow) -> None:
        """Show a study to the sites that it asks."""
        self.journal.append("study-proposed", study=row.id, digest=row.digest)
        for site in row.sites:
            self.sessions.tell(site, proposal_of(row))
        self.studies_changed.set()

    def finish(self, study: str, state: State, reason: str) -> None:
        """End a study: its tasks are gone, and its sites are told.

        Raises:
            UsageError: There is no such study.
        """
        row = self.studies.find(study)
        if row.state in ENDED:
            return
        self.studies.set_state(row.id, state, reason)
        self.tasks.end_study(row.id)
        self.journal.append(f"study-{state}", study=row.id)
        for site in row.sites:
            self.sessions.tell(site, StudyClosed(study=row.id))
        self.studies_changed.set()
        self.wake()

    def push(self, study: str, new: Sequence[NewTask]) -> None:
        """Open tasks and tell their sites; a round drops the earlier ones: the study has a checkpoint of them."""
        self.tasks.push(new)
        if rounds := {task.task.step for task in new if is_round(task.task.step)}:
            self.forget(study, rounds)
        members = self.membership.members()
        for task in new:
            site = task.task.site
            if site not in members:
                self.tasks.fail_site(site, "It is not a member, or its membership is suspended.")
                self.wake()
            elif (notice := self.tasks.notice(task.task)) is not None:
                self.sessions.tell(site, notice)
        self.metrics.open_tasks.set(self.tasks.count_open())

    def forget(self, study: str, keep: Collection[str]) -> None:
        """Drop the tasks of a study's rounds."""
        for task in self.tasks.forget(study, keep=keep):
            self.sessions.tell(task.site, TaskClosed(task=task))

    def close(self, ids: Collection[str]) -> None:
        """Stop waiting for tasks."""
        for task in self.tasks.close(ids):
            self.sessions.tell(task.site, TaskClosed(task=task))

    async def pull(self, ids: Collection[str], seconds: float) -> list[Outcome]:
        """Return the outcomes that are there, waiting for a first one."""
        deadline = asyncio.get_running_loop().time() + seconds
        async with self.changed:
            while not (found := self.tasks.outcomes(ids)):
                remaining = deadline - asyncio.get_running_loop().time()
                if remaining <= 0:
                    break
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self.changed.wait(), remaining)
        self.metrics.open_tasks.set(self.tasks.count_open())
        return found
