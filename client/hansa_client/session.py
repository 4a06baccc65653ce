"""What a site does with one task, without I/O: gate, train, release; the same on every engine.

An engine carries the bytes of a task here and the bytes of the reply back. What a site must remember between tasks is
in ``SiteState``, which the engine keeps for it; everything else is a warm cache that can be rebuilt from it.
"""

import functools
import logging
import time
from dataclasses import dataclass, replace

import numpy as np
import torch

from hansa_client.data.split import Splits
from hansa_client.device import choose_device, describe
from hansa_client.release import Release
from hansa_client.simulated import SimulatedSites, count_sites, divide, site_splits
from hansa_client.training.memory import keep_freed_memory
from hansa_client.training.procedure import Procedure
from hansa_client.training.supervised import SupervisedTraining
from hansa_common import __version__
from hansa_common.errors import HansaError, MessageError, TaskRefused
from hansa_common.messages import (
    Baseline,
    BaselineTask,
    Envelope,
    Evaluated,
    EvaluateTask,
    Initial,
    InitialTask,
    Message,
    Opened,
    OpenTask,
    Refusal,
    TrainTask,
    Update,
    decode,
    encode,
)
from hansa_common.metrics import ClassificationCounts
from hansa_common.parameters import Vector
from hansa_common.plan import StudyPlan, plan_from_json
from hansa_common.seeds import derive_seed

MAX_REPLY = 8 << 30  # bytes
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class SiteState:
    """What a simulated site remembers between tasks.

    Attributes:
        index: Its place among the sites of the simulation, from 0.
        plan_json: The plan it opened, empty before.
    """

    index: int
    plan_json: str = ""


class Session:
    """One site in one study: its data and model stay loaded between tasks."""

    def __init__(self, plan: StudyPlan, index: int) -> None:
        sites = divide(plan)
        if not 0 <= index < len(sites.names):
            raise TaskRefused(f"There is no site {index}; the plan has {len(sites.names)}.")
        assert plan.simulation is not None
        self.plan = plan
        self.digest = plan.digest()
        self.index = index
        self.site = sites.names[index]
        self._sites: SimulatedSites = sites
        self._device = choose_device(plan.simulation.device, worker_index=index)
        self._splits = site_splits(plan, index)
        self._procedure = self._prepare(self._splits)
        self._release = Release(parameters=self._procedure.spec.size, max_bytes=MAX_REPLY)

    def handle(self, message: Message) -> Envelope:
        """Do one task of the open study.

        Raises:
            TaskRefused: It belongs to another study or round.
            MessageError: Its vector does not fit the plan's model.
            DataError, TrainingError, ReleaseRefused: As the step that failed says.
        """
        header = message.header
        if isinstance(header, OpenTask):
            return self._open()
        if not isinstance(header, InitialTask | TrainTask | EvaluateTask | BaselineTask):
            raise TaskRefused(f"A site does not do '{header.kind}'.")
        if header.plan_digest != self.digest:
            raise TaskRefused("The task belongs to another plan than the one that is open at this site.")
        if message.vector is not None and message.vector.size != self._procedure.spec.size:
            raise MessageError(
                f"The parameters have {message.vector.size} values; the plan's model has {self._procedure.spec.size}."
            )
        match header, message.vector:
            case InitialTask(), None:
                return self._initial()
            case TrainTask(), np.ndarray() as parameters:
                return self._train(header, parameters)
            case EvaluateTask(), np.ndarray() as parameters:
                return self._evaluate(header, parameters)
            case BaselineTask(), np.ndarray() as parameters:
                return self._baseline(header, parameters)
        raise RuntimeError(f"decode let a '{header.kind}' pass with the wrong arrays.")

    def _prepare(self, splits: Splits, plan: StudyPlan | None = None) -> Procedure:
        dataset = self._sites.dataset
        return SupervisedTraining(plan=plan or self.plan, dataset=dataset, splits=splits, device=self._device)

    def _open(self) -> Envelope:
        labels = self._sites.dataset.labels[self._sites.indices[self.index]]
        counts = np.bincount(labels, minlength=len(self.plan.data.classes))
        header = Opened(
            plan_digest=self.digest,
            site=self.site,
            train=len(self._splits.train),
            validation=len(self._splits.validation),
            test=len(self._splits.test),
            class_counts=tuple(counts.tolist()),
            origin=self._sites.dataset.origin,
            version=__version__,
            device=describe(self._device),
        )
        return encode(Message(header=header))

    def _initial(self) -> Envelope:
        header = Initial(plan_digest=self.digest, spec=self._procedure.spec)
        seed = derive_seed(self.plan.seed, "initial")
        return encode(Message(header=header, vector=self._procedure.initial(seed)))

    def _train(self, task: TrainTask, parameters: Vector) -> Envelope:
        if not 1 <= task.round <= self.plan.rounds.count:
            raise TaskRefused(f"The plan has {self.plan.rounds.count} rounds; the task asks for round {task.round}.")
        started = time.perf_counter()
        counts = self._procedure.evaluate(parameters, "validation")
        evaluated = time.perf_counter()
        trained = self._procedure.train(parameters, round_number=task.round, seed=self._seed(task.round))
        ended = time.perf_counter()
        header = Update(
            plan_digest=self.digest,
            round=task.round,
            attempt=task.attempt,
            site=self.site,
            num_examples=trained.num_examples,
            train_loss=trained.loss,
            steps=trained.steps,
            seconds=ended - started,
            train_seconds=ended - evaluated,
        )
        return self._release.update(header, trained.delta, counts)

    def _seed(self, round_number: int) -> int:
        return derive_seed(self.plan.seed, self.index, round_number, "train")

    def _evaluate(self, task: EvaluateTask, parameters: Vector) -> Envelope:
        started = time.perf_counter()
        procedure = self._procedure
        if task.subject == "coordinator":
            holdout = self._sites.holdout
            procedure = self._prepare(Splits(train=holdout, validation=holdout[:0], test=holdout))
        counts = {
            "validation": procedure.evaluate(parameters, "validation"),
            "test": procedure.evaluate(parameters, "test"),
        }
        header = Evaluated(plan_digest=self.digest, site=self.site, seconds=time.perf_counter() - started)
        return encode(Message(header=header, counts=counts))

    def _baseline(self, task: BaselineTask, parameters: Vector) -> Envelope:
        started = time.perf_counter()
        if task.subject == "local":
            trained = self._train_alone(self._procedure, parameters)
            counts = {self.site: self._procedure.evaluate(trained, "test")}
        else:
            counts = self._train_pooled(parameters)
        header = Baseline(
            plan_digest=self.digest, subject=task.subject, site=self.site, seconds=time.perf_counter() - started
        )
        return encode(Message(header=header, counts=counts))

    def _train_alone(self, procedure: Procedure, parameters: Vector) -> Vector:
        """Train for the study's whole budget without anybody else."""
        current = parameters.astype(np.float32, copy=True)
        for round_number in range(1, self.plan.rounds.count + 1):
            current += procedure.train(current, round_number=round_number, seed=self._seed(round_number)).delta
        return current

    def _train_pooled(self, parameters: Vector) -> dict[str, ClassificationCounts]:
        """Train on the union of all sites' training splits; the sample budget is that of all sites together."""
        per_site = [site_splits(self.plan, index) for index in range(len(self._sites.names))]
        union = Splits(
            train=np.concatenate([splits.train for splits in per_site]),
            validation=np.concatenate([splits.validation for splits in per_site]),
            test=np.concatenate([splits.test for splits in per_site]),
        )
        plan = self.plan
        if plan.training.steps is not None:
            steps = plan.training.steps * len(per_site)
            plan = plan.model_copy(update={"training": plan.training.model_copy(update={"steps": steps})})
        trained = self._train_alone(self._prepare(union, plan), parameters)
        return {
            name: self._prepare(replace(union, test=splits.test)).evaluate(trained, "test")
            for name, splits in zip(self._sites.names, per_site, strict=True)
        }


class Sessions:
    """The warm sessions of this process: all of one study, by site."""

    def __init__(self) -> None:
        self._plan_json = ""
        self._plan: StudyPlan | None = None
        self._sessions: dict[int, Session] = {}

    def find(self, state: SiteState) -> Session:
        """Return this site's session, made anew where this process has none yet.

        Raises:
            TaskRefused: The site has opened no study.
            HansaError: The study cannot be opened here.
        """
        if not state.plan_json:
            raise TaskRefused("No study is open at this site.", advice="The server must open the study first.")
        if state.plan_json != self._plan_json or self._plan is None:
            self._plan = plan_from_json(state.plan_json)
            self._plan_json, self._sessions = state.plan_json, {}
        if state.index not in self._sessions:
            self._sessions[state.index] = Session(self._plan, state.index)
        return self._sessions[state.index]


_sessions = Sessions()


def handle(envelope: Envelope, state: SiteState) -> Envelope:
    """Do the task in ``envelope`` and return the reply; a failure is a typed refusal, never an exception.

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


@functools.cache
def _prepare_process() -> None:
    """One site, one core: sites run side by side, and results do not depend on how many cores there are."""
    torch.set_num_threads(1)
    keep_freed_memory()


def _handle(envelope: Envelope, state: SiteState) -> Envelope:
    _prepare_process()
    message = decode(envelope)
    if isinstance(message.header, OpenTask):
        state.plan_json = message.header.plan
    return _sessions.find(state).handle(message)


def _refuse(state: SiteState, code: str, reason: str) -> Envelope:
    _log.warning("site %d refuses: %s", state.index, reason)
    header = Refusal(code=code, site=_name(state), reason=reason[:2000])
    return encode(Message(header=header))


def _name(state: SiteState) -> str:
    """Return the site's name, or its number where its plan cannot tell."""
    try:
        return count_sites(plan_from_json(state.plan_json))[state.index]
    except (HansaError, IndexError):
        return f"site {state.index + 1}"
