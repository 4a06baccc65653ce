"""What a site does with one task, without I/O: gate, work, release; the same on every engine.

An engine carries the bytes of a task here and the bytes of the reply back. The work (torch, data) is somebody else's:
in a simulation an object of this process, at a real site a process without a network. The budget, ``release`` and the
secure aggregation are this side's.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, TypeGuard

from hansa_client.clipping import require_bound
from hansa_client.feedback import do_with_memory
from hansa_client.masking import Masking
from hansa_client.release import Release
from hansa_client.site_state import Kept, State, StateFolder
from hansa_common.errors import HansaError, ReleaseRefused, TaskRefused
from hansa_common.messages import (
    Envelope,
    Evaluated,
    EvaluateTask,
    Explained,
    ExplainTask,
    Initial,
    InitialTask,
    MaskingTask,
    Message,
    Opened,
    OpenTask,
    Refusal,
    Reply,
    Statistics,
    StatisticsTask,
    Task,
    TrainTask,
    Update,
    decode,
    encode,
)
from hansa_common.metrics import Counts, CountsKind
from hansa_common.parameters import is_finite
from hansa_common.plan import StudyPlan, plan_from_json
from hansa_common.protection import counts_leave, kind_of
from hansa_common.simulation_plan import SourcePlan
from hansa_common.strategies import STRATEGIES

if TYPE_CHECKING:  # torch stays out of the agent
    from hansa_client.work import Work

MAX_REPLY: Final = 8 << 30  # bytes
_log = logging.getLogger(__name__)


def _require_announcement(task: Message, plan: StudyPlan) -> None:
    """Return if what comes back can be masked where the plan asks for that.

    Masks of one round cancel whatever was asked: a server that had one site evaluate and the others explain, which can
    be made to give nothing, would read the one site's counts. So each kind of task has rounds of its own: statistics 0,
    training those of the plan, and after them the last model's counts the odd ones, its explanation the even ones.

    Raises:
        TaskRefused: The task announces no round of secure aggregation, or not its own.
    """
    header = task.header
    counts = isinstance(header, EvaluateTask) and header.subject == "site" and counts_leave(plan.privacy)
    leaves = isinstance(header, TrainTask | ExplainTask | StatisticsTask) or counts
    if not leaves or plan.privacy.secure_aggregation is None:
        return
    if not task.statement:
        raise TaskRefused("The plan asks for secure aggregation, and the task announces no round of it.")
    if isinstance(header, EvaluateTask | ExplainTask):
        after = header.round - plan.rounds.count
        if after < 1 or after % 2 != isinstance(header, EvaluateTask):
            raise TaskRefused(f"With secure aggregation round {header.round} is not one of '{header.kind}'.")


def _builds_on_state(header: Task | Reply, plan: StudyPlan) -> TypeGuard[TrainTask | EvaluateTask]:
    """Tell whether a task needs, or leaves, something of the site's own; no evaluation needs what a codec held back."""
    has_own = STRATEGIES[plan.aggregation.strategy].keeps_state or plan.personalisation is not None
    if isinstance(header, TrainTask):
        return has_own or plan.transport.holds_back
    return isinstance(header, EvaluateTask) and has_own


def _require_basis(header: TrainTask | EvaluateTask, plan: StudyPlan) -> int:
    """Return the round that the state of a task is of; the closing exchange is one more than the plan has.

    Raises:
        TaskRefused: The task builds on a round that cannot have been before it.
    """
    number = header.round if isinstance(header, TrainTask) else plan.rounds.count + 1
    if header.basis >= number:
        raise TaskRefused(f"The task of round {number} builds on what was kept of round {header.basis}.")
    return number


def _about(plan: StudyPlan, site: str) -> dict[str, str]:
    """Return what the file of a site's own model says of itself."""
    return {"study": plan.name, "plan_digest": plan.digest(), "site": site}


def refusal(site: str, code: str, reason: str) -> Envelope:
    """Return the reply of a site that did not do a task."""
    return encode(Message(header=Refusal(code=code, site=site, reason=reason[:2000])))


# --- a real site ---------------------------------------------------------------------------------------------------


class RemoteWork(Protocol):
    """The work in a process of its own."""

    def open(self, plan: StudyPlan, *, name: str, index: int, source: SourcePlan, timeout: float) -> int:
        """Load data and model; return ``P``."""

    def do(self, message: Message, *, kind: CountsKind, timeout: float) -> Message:
        """Do one task of the open study."""

    def do_with_state(
        self, message: Message, state: State, *, kind: CountsKind, timeout: float
    ) -> tuple[Message, Kept]:
        """Do one task of the open study, in which this site keeps something; return what stays here too."""


_ANSWERS: Final = {
    OpenTask: Opened,
    InitialTask: Initial,
    StatisticsTask: Statistics,
    TrainTask: Update,
    EvaluateTask: Evaluated,
    ExplainTask: Explained,
}
"""What a real site does, and what leaves it for each."""


def _check_answer(task: Message, reply: Message, *, site: str, digest: str, parameters: int) -> None:
    """Hold the work to its task: what it gives under another name would leave without the release step.

    Raises:
        ReleaseRefused: The reply is of another kind, site, plan, round or attempt, or its vector is no model.
    """
    expected: dict[str, object] = {"site": site, "plan_digest": digest}
    if isinstance(task.header, TrainTask):
        expected |= {"round": task.header.round, "attempt": task.header.attempt}
    if isinstance(task.header, InitialTask):
        del expected["site"]
    fits = type(reply.header) is _ANSWERS[type(task.header)] and all(
        getattr(reply.header, name) == value for name, value in expected.items()
    )
    is_model = reply.vector is None or (reply.vector.size == parameters and is_finite(reply.vector))
    if not fits or not (is_model or isinstance(reply.header, Update)):  # an update's vector is for release to judge
        raise ReleaseRefused("The worker answered with something else than the task asks for; nothing left this site.")


class Custody(Protocol):
    """What a site keeps between tasks, on its own disk."""

    def masking(self, plan: StudyPlan) -> Masking:
        """Return this site's part in the secure aggregation of a study; the same object while the process lives."""

    def spend(self, plan: StudyPlan, task: TrainTask | EvaluateTask, *, name: str, parameters: int) -> None:
        """Enter in the ledger what the answer to the task of this name will cost, before the work is done.

        Raises:
            TaskRefused: It would exceed the budget.
        """

    def keep_figures(self, plan: StudyPlan, round_number: int, counts: Mapping[str, Counts]) -> None:
        """Keep this site's own figures, which the coordinator need not know."""

    def keep_explanations(self, plan: StudyPlan, task: str) -> None:
        """Keep what the work wrote about single examples for the task of this name, beside the study's model."""

    def states(self, plan: StudyPlan) -> StateFolder:
        """Return where this site keeps what a study needs from round to round."""

    @property
    def shows_figures(self) -> bool:
        """The site's policy lets its own figures out beside the masked ones."""


def _require_planned(header: Task | Reply, plan: StudyPlan, digest: str) -> None:
    """Return if the task is one of the approved plan.

    Raises:
        TaskRefused: It is not, or no real site does it.
    """
    if type(header) not in _ANSWERS and not isinstance(header, MaskingTask):
        raise TaskRefused(f"A real site does not do '{header.kind}'.")
    if isinstance(header, TrainTask) and not 1 <= header.round <= plan.rounds.count:
        raise TaskRefused(f"The plan has {plan.rounds.count} rounds; the task asks for round {header.round}.")
    if isinstance(header, ExplainTask) and (plan.evaluation.explain is None or header.folder):
        raise TaskRefused("The plan asks for no such explanation; a real site keeps pictures in its own folder only.")
    if isinstance(header, EvaluateTask) and header.subject != "site":  # release lets those counts out as they are
        raise TaskRefused("A real site has nobody's data but its own.")
    if isinstance(header, OpenTask):
        if plan_from_json(header.plan).digest() != digest:
            raise TaskRefused("The server asks to open another plan than the one that this site approved.")
    elif getattr(header, "plan_digest", "") != digest:
        raise TaskRefused("The task belongs to another plan than the one that this site approved.")


class SiteSession:
    """A real site in whatever study is open.

    Args:
        name: Of the site.
        approve: Called with a plan's digest before anything runs; raises where the site does not allow it.
        work: What trains.
        source: Which data serves a study, by its name.
        custody: What is kept between tasks.
    """

    def __init__(
        self,
        *,
        name: str,
        approve: Callable[[str], None],
        work: RemoteWork,
        source: Callable[[str], SourcePlan | None],
        custody: Custody,
    ) -> None:
        self._name = name
        self._approve = approve
        self._work = work
        self._source = source
        self._custody = custody
        self._plan: StudyPlan | None = None
        self._digest = ""
        self._parameters = 0

    def handle(self, envelope: Envelope, plan: StudyPlan, *, task: str, seconds: float) -> Envelope:
        """Do the task and return the reply; a failure is a typed refusal without a value of the data.

        Args:
            envelope: What the server sent.
            plan: The plan of the study that the task belongs to, from this site's own disk.
            task: Its name, under which one reply is stored and nothing else ever leaves.
            seconds: How long the work may take.
        """
        try:
            return self._handle(decode(envelope), plan, task, seconds)
        except HansaError as error:
            _log.warning("task refused (%s): %s", error.code, error)
            return refusal(self._name, error.code, error.public)
        except Exception as error:  # noqa: BLE001 - a site answers whatever happens, and tells no details
            _log.exception("unexpected failure")
            return refusal(
                self._name, "internal", f"Unexpected {type(error).__name__}; the site's log has the details."
            )

    def _handle(self, message: Message, plan: StudyPlan, task: str, seconds: float) -> Envelope:
        digest = plan.digest()
        self._approve(digest)
        header = message.header
        _require_planned(header, plan, digest)
        if isinstance(header, MaskingTask):
            return encode(self._custody.masking(plan).answer(message))
        _require_announcement(message, plan)
        require_bound(message, plan)
        if self._digest != digest:
            self._open(plan, digest, seconds)
        if isinstance(header, TrainTask | EvaluateTask):
            self._custody.spend(plan, header, name=task, parameters=self._parameters)
        bare = replace(message, statement=b"")
        reply = self._do(bare, plan, seconds)
        self._approve(digest)  # the site may have taken it back while it trained
        if isinstance(header, TrainTask | EvaluateTask):
            self._custody.keep_figures(plan, _round_of(header, plan), reply.counts)
        if isinstance(header, ExplainTask):
            self._custody.keep_explanations(plan, task)
        return self._release(plan).reply(message, reply)

    def _do(self, task: Message, plan: StudyPlan, seconds: float) -> Message:
        """Do a task, on what this site kept where the study needs that; what it leaves is kept before anything goes."""
        header, kind = task.header, kind_of(plan)
        check = partial(_check_answer, task, site=self._name, digest=plan.digest(), parameters=self._parameters)
        if not _builds_on_state(header, plan):
            reply = self._work.do(task, kind=kind, timeout=seconds)
            check(reply)
            return reply
        number, states = _require_basis(header, plan), self._custody.states(plan)

        def do(state: State) -> tuple[Message, Kept]:
            reply, kept = self._work.do_with_state(task, state, kind=kind, timeout=seconds)
            check(reply)
            return reply, kept

        reply, kept = do_with_memory(plan, states.load(header.basis), do)
        states.keep(kept, round_number=number, basis=header.basis, about=_about(plan, self._name))
        return reply

    def _release(self, plan: StudyPlan) -> Release:
        return Release(
            plan=plan,
            parameters=plan.update_size(self._parameters),
            max_bytes=MAX_REPLY,
            masking=self._custody.masking(plan) if plan.privacy.secure_aggregation is not None else None,
            shows_figures=self._custody.shows_figures,
        )

    def _open(self, plan: StudyPlan, digest: str, seconds: float) -> None:
        source = self._source(plan.name)
        if source is None:
            raise TaskRefused(
                f"This site has no data for the study '{plan.name}'.", advice=f"Add [data.{plan.name}] to site.toml."
            )
        if plan.federation is None or self._name not in plan.federation.sites:
            raise TaskRefused("The plan does not name this site.")
        index = plan.federation.sites.index(self._name)
        self._digest = ""
        self._parameters = self._work.open(plan, name=self._name, index=index, source=source, timeout=seconds)
        self._digest = digest


def _round_of(header: TrainTask | EvaluateTask, plan: StudyPlan) -> int:
    """Return which model was evaluated: 0 is the initial one."""
    return header.round - 1 if isinstance(header, TrainTask) else plan.rounds.count


# --- a simulated site ----------------------------------------------------------------------------------------------


@dataclass(slots=True)
class SiteState:
    """What a simulated site remembers between tasks.

    Attributes:
        index: Its place among the sites of the simulation, from 0.
        plan_json: The plan it opened, empty before.
        masks: Its part in secure aggregation; its tasks may be done by one process after another.
        folder: Of the run, where the sites keep what a study needs from round to round.
    """

    index: int
    plan_json: str = ""
    masks: bytes = field(default=b"", repr=False)
    folder: str = ""


class Sessions:
    """The warm sites of this process: all of one study, by index."""

    def __init__(self) -> None:
        self._plan_json = ""
        self._plan: StudyPlan | None = None
        self._sites: dict[int, Work] = {}

    def find(self, state: SiteState) -> "Work":
        """Return this site's work, made anew where this process has none yet.

        Raises:
            TaskRefused: The site has opened no study.
            HansaError: The study cannot be opened here.
        """
        from hansa_client.site_data import simulated_site  # noqa: PLC0415 - see above
        from hansa_client.work import Work  # noqa: PLC0415

        if not state.plan_json:
            raise TaskRefused("No study is open at this site.", advice="The server must open the study first.")
        if state.plan_json != self._plan_json or self._plan is None:
            self._plan = plan_from_json(state.plan_json)
            self._plan_json, self._sites = state.plan_json, {}
        if state.index not in self._sites:
            site = simulated_site(self._plan, state.index)
            device = self._plan.simulation.device if self._plan.simulation else "auto"
            self._sites[state.index] = Work(self._plan, site, device)
        return self._sites[state.index]


_sessions = Sessions()


def handle(envelope: Envelope, state: SiteState) -> Envelope:
    """Do the task of a simulated site and return the reply; a failure is a typed refusal, never an exception.

    Args:
        envelope: What the server sent.
        state: What this site remembers; opening a study changes it.
    """
    try:
        return _handle(envelope, state)
    except HansaError as error:
        # a simulated site's data lies on the researcher's own machine: the whole reason is told
        return _refuse(state, error.code, str(error))
    except Exception as error:  # noqa: BLE001 - a site answers whatever happens, and tells no details
        _log.exception("site %d: unexpected failure", state.index)
        return _refuse(state, "internal", f"Unexpected {type(error).__name__}; the workers' log has the details.")


def _handle(envelope: Envelope, state: SiteState) -> Envelope:
    from hansa_client.simulated_masking import SimulatedMasking  # noqa: PLC0415 - see above
    from hansa_client.work import prepare_process  # noqa: PLC0415

    prepare_process()
    message = decode(envelope)
    if isinstance(message.header, OpenTask):
        state.plan_json, state.masks, state.folder = message.header.plan, b"", message.header.folder
    work = _sessions.find(state)
    plan = work.plan
    masking = SimulatedMasking(plan, work.site.name, state.masks) if plan.privacy.secure_aggregation else None
    try:
        if masking is not None and isinstance(message.header, MaskingTask):
            return encode(masking.answer(message))
        _require_announcement(message, plan)
        require_bound(message, plan)
        size = plan.update_size(work.parameters)
        release = Release(plan=plan, parameters=size, max_bytes=MAX_REPLY, masking=masking)
        return release.reply(message, _simulate(work, replace(message, statement=b""), state))
    finally:
        if masking is not None:
            state.masks = masking.state()


def _simulate(work: "Work", task: Message, site: SiteState) -> Message:
    """Do a task; what a site keeps lies in the run's folder, for another process may do its next task."""
    header, plan = task.header, work.plan
    if not _builds_on_state(header, plan):
        return work.do(task)
    number = _require_basis(header, plan)
    if not site.folder:
        raise TaskRefused("The sites of this study keep state, and the server named no folder for it.")
    states = StateFolder(Path(site.folder) / str(site.index + 1))
    reply, kept = do_with_memory(plan, states.load(header.basis), partial(work.do_with_state, task))
    states.keep(kept, round_number=number, basis=header.basis, about=_about(plan, work.site.name))
    return reply


def _refuse(state: SiteState, code: str, reason: str) -> Envelope:
    _log.warning("site %d refuses: %s", state.index, reason)
    return refusal(_name(state), code, reason)


def _name(state: SiteState) -> str:
    """Return the site's name, or its number where its plan cannot tell."""
    from hansa_client.simulated import count_sites  # noqa: PLC0415 - see above

    try:
        return count_sites(plan_from_json(state.plan_json))[state.index]
    except (HansaError, IndexError):
        return f"site {state.index + 1}"
