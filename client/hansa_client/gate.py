"""What this site lets be done: what it approved and its policy allows, looked up on its own disk each time."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

from hansa_client import policy
from hansa_client.folder import SiteFolder
from hansa_client.settings import SiteSettings
from hansa_client.spending import Spending
from hansa_common.app_plan import AppPlan, read_any
from hansa_common.audit import Journal, read
from hansa_common.errors import MessageError, NotApproved, TaskRefused, UsageError
from hansa_common.files import write_whole
from hansa_common.messages import (
    Envelope,
    EvaluateTask,
    ExplainTask,
    RawArray,
    Reply,
    StatisticsTask,
    Task,
    TrainTask,
)
from hansa_common.plan import StudyPlan
from hansa_common.wire.codec import Kind, Parcel
from hansa_common.wire.protocol import TaskNotice

_LOOKS: Final = (TrainTask, EvaluateTask, ExplainTask, StatisticsTask)  # tasks that this site's examples answer
_ANSWERS: Final = ("study-approved", "study-refused")


class FlowerWork(Protocol):
    """Runs another app's ClientApp, confined."""

    def flower(self, reference: str, envelope: Envelope, *, timeout: float) -> Envelope:
        """Return the reply, with the node's new state beside it."""


class Gate:
    """The site's own decisions.

    Args:
        folder: Where they lie.
        settings: The operator's.
    """

    def __init__(self, folder: SiteFolder, settings: SiteSettings) -> None:
        self._folder = folder
        self._settings = settings
        self._recorded: dict[str, int] | None = None  # plan -> when the answer that is in the record was given

    def record(self, journal: Journal) -> None:
        """Enter the answers that were signed since; the command that signs has no hold of the record.

        Raises:
            StorageError: The disk is full or fails.
        """
        if self._recorded is None:
            entries = (entry.details for entry in read(journal.path) if entry.event in _ANSWERS)
            self._recorded = {str(found["digest"]): int(found["decided_at"]) for found in entries}
        for digest, request in self._folder.decisions().items():
            decision = request.decision
            if self._recorded.get(digest) != decision.decided_at:
                event = _ANSWERS[not decision.approved]
                journal.append(event, study=decision.study, digest=digest, decided_at=decision.decided_at)
                self._recorded[digest] = decision.decided_at

    def plan_of(self, study: str) -> StudyPlan | AppPlan:
        """Return a study's plan as this site approved it.

        Raises:
            NotApproved: It was not proposed, not approved, or the approval was taken back.
            PolicyRefused: It was approved, and the site's policy does not allow it.
        """
        try:
            proposal = self._folder.proposal(study)
        except (UsageError, MessageError):
            raise NotApproved("The study was not proposed to this site.") from None
        plan = read_any(proposal.plan)
        if not self._folder.is_approved(plan.digest()):
            raise NotApproved(
                f"This site has not approved {study}.",
                advice="See it with 'hansa site review'; approve it with 'hansa site approve'.",
            )
        if isinstance(plan, StudyPlan):
            policy.check(plan, self._settings)
            Spending(self._folder.path / "ledger", self._settings).check(plan)
        return plan

    def check(self, digest: str) -> None:
        """Return if this site approved the plan with this digest, and did not take it back.

        Raises:
            NotApproved: It did not.
        """
        if not self._folder.is_approved(digest):
            raise NotApproved(f"This site has not approved the plan {digest[:16]}...")

    def look(self, plan: StudyPlan, header: Task | Reply, answered: Callable[[str], int]) -> str:
        """Name the step of a plan that a task has this site's examples answer; empty for one that has them answer none.

        Counts of one model more tell little; those of very many tell of single examples, for whoever chooses the
        models. Studies and tasks are named by the coordinator, so neither name matters.

        Args:
            plan: The task's.
            header: The task's.
            answered: Tells how often they answered a step.

        Raises:
            TaskRefused: They answered it as often as the policy lets them.
        """
        if not isinstance(header, _LOOKS):
            return ""
        step = f"{header.kind}-{header.round}" if isinstance(header, TrainTask) else header.kind
        look = f"{plan.digest()}:{step}"
        most = self._settings.policy.most_attempts
        if answered(look) >= most:
            raise TaskRefused(
                f"This site answered this step of the plan {most:,} times, the most that its policy allows.",
                advice="Raise policy.most_attempts in site.toml if the coordinator has a good reason to ask again.",
            )
        return look

    def flower(self, plan: AppPlan, notice: TaskNotice, parcel: Parcel, work: FlowerWork) -> Parcel:
        """Have another Flower app's ClientApp answer, if this site lists it.

        Raises:
            TaskRefused: It is not in site.toml.
            HansaError: It failed.
        """
        if plan.client_app not in self._folder.settings().apps.values():
            raise TaskRefused(
                "The app is not one that this site lets run.",
                advice=f'Add it to [apps] in site.toml: "{plan.client_app}"',
            )
        if notice.task.site not in plan.sites:
            raise TaskRefused("The plan does not name this site.")
        if parcel.kind is not Kind.FLOWER or "message" not in parcel.envelope.arrays:
            raise MessageError("A task of another Flower app holds its message.")
        state = self._state_path(notice.task.study)
        arrays = {"message": parcel.envelope.arrays["message"]}
        if state.exists():
            content = state.read_bytes()
            arrays["state"] = RawArray(dtype="|u1", shape=(len(content),), data=content)
        index = plan.sites.index(notice.task.site)
        node = {"partition-id": index, "num-partitions": len(plan.sites)}
        header = json.dumps({"node": node, "run": plan.run_config}).encode()
        answer = work.flower(plan.client_app, Envelope(header=header, arrays=arrays), timeout=notice.seconds)
        write_whole(state, bytes(answer.arrays["state"].data), mode=0o600)
        return Parcel(kind=Kind.FLOWER, envelope=Envelope(header=b"", arrays={"message": answer.arrays["message"]}))

    def _state_path(self, study: str) -> Path:
        folder = self._folder.path / "apps"
        folder.mkdir(mode=0o700, exist_ok=True)
        return folder / f"{study}.state"
