"""What a site does with a task once it may: evaluate and train. Nothing here decides, and nothing here leaves.

The work runs beside ``session`` in a simulation, and at a real site in a process of its own, without a network.
"""

import functools
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from hansa_client.data.preparation import prepared_dataset
from hansa_client.data.source import Dataset
from hansa_client.data.split import Splits
from hansa_client.data.text_columns import units_of
from hansa_client.device import Device, choose_device, describe
from hansa_client.keeping import keep_files
from hansa_client.simulated import SimulatedSites, site_splits
from hansa_client.site_data import SiteData
from hansa_client.site_state import Kept, PersonalModel, State
from hansa_client.training.algorithms import build_algorithm
from hansa_client.training.attribution import require_explainable
from hansa_client.training.explainer import explain_model
from hansa_client.training.flat_model import offer_weights, shared_model
from hansa_client.training.memory import keep_freed_memory
from hansa_client.training.procedure import Procedure
from hansa_client.training.supervised import SupervisedTraining
from hansa_common import __version__
from hansa_common.contract import label_names
from hansa_common.errors import MessageError, TaskRefused
from hansa_common.failpoints import reach
from hansa_common.feature_sums import measure
from hansa_common.messages import (
    Baseline,
    BaselineTask,
    Evaluated,
    EvaluateTask,
    Explained,
    ExplainTask,
    Initial,
    InitialTask,
    Message,
    Opened,
    OpenTask,
    Statistics,
    StatisticsTask,
    Task,
    TrainTask,
    Update,
)
from hansa_common.metrics import Counts
from hansa_common.parameters import Vector
from hansa_common.plan import StudyPlan
from hansa_common.prepared import Prepared, is_asked_for
from hansa_common.seeds import derive_seed
from hansa_common.strategies import STRATEGIES
from hansa_common.transport import received_model, unpacked

_TOLERANCE = 1e-5  # between initial parameters of one seed on two machines


@functools.cache
def prepare_process() -> None:
    """One site, one core: sites run side by side, and results do not depend on how many cores there are."""
    torch.set_num_threads(1)
    keep_freed_memory()


class Work:
    """One site in one study: its data and model stay loaded between tasks.

    Args:
        plan: The study.
        site: What the site has.
        device: Where to train, as a plan names it.
        kept: Folder for what explains single examples; a simulated site gets one with the task.
    """

    def __init__(self, plan: StudyPlan, site: SiteData, device: Device, *, kept: Path | None = None) -> None:
        self.plan = plan
        self.digest = plan.digest()
        self.site = site
        self._kept = kept
        self._device = choose_device(device, worker_index=site.index)
        if plan.model.backbone is not None:
            offer_weights(plan.model.backbone, site.weights)
        self._procedure = self._protected()
        self._algorithm = build_algorithm(plan, self._procedure, partial(_changed, site, self._device))
        self._prepared: Prepared | None = None
        self._raw: Dataset | None = None  # before it was prepared

    @property
    def parameters(self) -> int:
        """``P``, how many of the model's parameters travel."""
        return self._algorithm.spec.size

    def do(self, message: Message) -> Message:
        """Do one task of a study in which this site keeps nothing; see ``do_with_state``."""
        return self.do_with_state(message, {})[0]

    def do_with_state(self, message: Message, state: State) -> tuple[Message, Kept]:
        """Do one task of this study.

        Args:
            message: The task.
            state: What this site kept of the round that the task builds on.

        Returns:
            The reply, and what stays here.

        Raises:
            TaskRefused: It belongs to another study or round, or the first round starts from other parameters.
            MessageError: Its vector does not fit the plan's model.
            DataError, TrainingError: As the step that failed says.
        """
        header = message.header
        if isinstance(header, OpenTask):
            return self._open(), Kept()
        message = self._require_mine(message)
        if isinstance(header, TrainTask | EvaluateTask | ExplainTask | BaselineTask):
            self._use(header.prepared)
        match header, message.vector:
            case StatisticsTask(), None:
                return self._statistics(), Kept()
            case InitialTask(), None:
                initial = Initial(plan_digest=self.digest, spec=self._algorithm.spec)
                return Message(header=initial, vector=self._algorithm.initial()), Kept()
            case TrainTask(), np.ndarray() as parameters:
                return self._train(header, parameters, state)
            case EvaluateTask(), np.ndarray() as parameters:
                return self._evaluate(header, parameters, state)
            case ExplainTask() | BaselineTask(), np.ndarray() as parameters:
                if isinstance(header, BaselineTask):
                    reply = self._baseline(header, parameters)
                else:
                    reply = self._explain(header, parameters)
                return reply, Kept()
        raise RuntimeError(f"decode let a '{header.kind}' pass with the wrong arrays.")

    def _require_mine(self, message: Message) -> Message:
        """Return a task of this study with its vector as ``float32``."""
        header = message.header
        if not isinstance(header, InitialTask | StatisticsTask | TrainTask | EvaluateTask | ExplainTask | BaselineTask):
            raise TaskRefused(f"A site does not do '{header.kind}'.")
        if header.plan_digest != self.digest:
            raise TaskRefused("The task belongs to another plan than the one that is open at this site.")
        size = self.parameters * self._models_of(header)
        message = unpacked(self.plan, message, size=size)
        if message.vector is not None and message.vector.size != size:
            raise MessageError(f"The parameters have {message.vector.size} values; the plan's model has {size}.")
        return message

    def _models_of(self, header: Task) -> int:
        """Return how many vectors of the model's size a task carries."""
        if isinstance(header, TrainTask):
            return self.plan.carried
        return self.plan.tested if isinstance(header, EvaluateTask) and header.subject == "site" else 1

    @property
    def _protects_persons(self) -> bool:
        privacy = self.plan.privacy.differential
        return privacy is not None and privacy.kind == "example"

    def _protected(self) -> Procedure:
        """Return the procedure whose updates and counts may leave."""
        splits = self.site.splits
        if not self._protects_persons:
            return self._prepare(splits)
        from hansa_client.training.private import PrivateTraining  # noqa: PLC0415 - imports Opacus, 2 s

        return PrivateTraining(plan=self.plan, dataset=self.site.dataset, splits=splits, device=self._device)

    def _prepare(self, splits: Splits, plan: StudyPlan | None = None) -> SupervisedTraining:
        """Return a procedure without protection; what it gives of a real site's data must not leave."""
        return SupervisedTraining(plan=plan or self.plan, dataset=self.site.dataset, splits=splits, device=self._device)

    def _open(self) -> Message:
        if self.plan.evaluation.explain is not None:
            require_explainable(self.plan.evaluation.explain, shared_model(self.plan, self._device).module)
        splits, labels = self.site.splits, self.site.dataset.labels[self.site.own]
        kinds = len(label_names(self.plan.data))
        counts = np.bincount(labels if kinds > 1 else np.zeros_like(labels), minlength=kinds)
        header = Opened(
            plan_digest=self.digest,
            site=self.site.name,
            train=len(splits.train),
            validation=len(splits.validation),
            test=len(splits.test),
            class_counts=tuple(counts.tolist()),
            origin=self.site.dataset.origin if self.site.simulation is not None else "",
            version=__version__,
            device=describe(self._device),
        )
        return Message(header=header)

    def _statistics(self) -> Message:
        """Measure the training split, for the plan's preprocessing."""
        preprocessing = self.plan.preprocessing
        if not preprocessing.needs_statistics:
            raise TaskRefused("The plan asks for no statistics of the features.")
        started = time.perf_counter()
        raw, train = self._raw if self._raw is not None else self.site.dataset, self.site.splits.train
        sums = measure(raw.features[train], preprocessing, self.plan.data, units_of(self.plan, raw, train))
        seconds = time.perf_counter() - started
        return Message(header=Statistics(plan_digest=self.digest, site=self.site.name, seconds=seconds), sums=sums)

    def _use(self, prepared: Prepared | None) -> None:
        """Prepare the features as the server says that all sites' statistics ask for, once.

        Raises:
            TaskRefused: It says nothing, something that the plan does not ask for, or something else than before.
        """
        if not is_asked_for(prepared, self.plan.preprocessing, self.plan.data):
            raise TaskRefused("The task does not bring the preprocessing that the plan asks for, or brings some.")
        if prepared is None:
            return
        if self._prepared is not None:
            if prepared != self._prepared:
                raise TaskRefused("The task brings other preprocessing than the task before it.")
            return
        self._raw = self.site.dataset
        self.site = replace(self.site, dataset=prepared_dataset(self._raw, prepared))
        self._procedure = self._protected()
        self._algorithm = build_algorithm(self.plan, self._procedure, partial(_changed, self.site, self._device))
        self._prepared = prepared

    def _is_start(self, parameters: Vector) -> bool:
        """Tell whether these are the initial parameters, and nothing that is carried beside them has a value yet."""
        size, initial = self.parameters, self._algorithm.initial()
        beside = np.zeros(len(parameters) - size, np.float32)
        expected = received_model(self.plan, np.concatenate([initial, beside]))[:size]
        found, slack = parameters[:size], 3.0 * _TOLERANCE  # a block's scale moves with its largest value
        is_same = np.abs(found - expected) <= slack
        # what differs a little before the plan's codec rounds it may come out as two neighbours, it in their middle
        is_neighbour = np.abs((found + expected) / 2.0 - initial) <= slack
        return bool((is_same | is_neighbour).all()) and not parameters[size:].any()

    def _train(self, task: TrainTask, parameters: Vector, state: State) -> tuple[Message, Kept]:
        if not 1 <= task.round <= self.plan.rounds.count:
            raise TaskRefused(f"The plan has {self.plan.rounds.count} rounds; the task asks for round {task.round}.")
        if task.round == 1 and not self._is_start(parameters):
            raise TaskRefused(
                "The first round does not start from the initial parameters that the plan's seed gives.",
                advice="The site that initialised the model, or the server, changed them; or it runs another torch.",
            )
        reach("site.train")
        started = time.perf_counter()
        whole = self._algorithm.whole(parameters, state)
        counts = self._procedure.evaluate(whole, "validation")
        loss = self._incoming_loss(whole)
        evaluated = time.perf_counter()
        local = self._algorithm.train(parameters, state, round_number=task.round, seed=self._seed(task.round))
        trained = local.trained
        ended = time.perf_counter()
        header = Update(
            plan_digest=self.digest,
            round=task.round,
            attempt=task.attempt,
            site=self.site.name,
            num_examples=trained.num_examples,
            train_loss=trained.loss,
            incoming_loss=loss,
            steps=trained.steps,
            seconds=ended - started,
            train_seconds=ended - evaluated,
        )
        return Message(header=header, vector=local.update, counts={"validation": counts}), Kept(state=local.state)

    def _incoming_loss(self, parameters: Vector) -> float | None:
        """Return the mean loss of the incoming model on the training split, where the strategy asks for it."""
        if not STRATEGIES[self.plan.aggregation.strategy].training_loss:
            return None
        counts = self._procedure.evaluate(parameters, "train")
        return counts.mean_loss

    def _seed(self, round_number: int) -> int:
        return derive_seed(self.plan.seed, self.site.index, round_number, "train")

    def _evaluate(self, task: EvaluateTask, parameters: Vector, state: State) -> tuple[Message, Kept]:
        started = time.perf_counter()
        if task.subject != "site":
            sites = self._simulation()
            tested = sites.holdout if task.subject == "coordinator" else self.site.own
            procedure: Procedure = self._prepare(Splits(train=tested, validation=tested[:0], test=tested))
            counts, kept = procedure.evaluate_last(parameters), Kept()
        else:
            versions = np.split(parameters, self.plan.tested)  # the last one first
            parameters = versions[0]
            counts = self._procedure.evaluate_last(self._algorithm.whole(parameters, state))
            if len(versions) > 1:
                counts |= {"ensemble": self._procedure.evaluate_together(versions)}
            own = self._algorithm.personal(parameters, state, seed=self._seed(self.plan.rounds.count + 1))
            kept = Kept()
            if own is not None:
                counts |= {"personal": self._procedure.evaluate(own, "test")}
                kept = Kept(personal=PersonalModel(spec=self._procedure.spec, vector=own))
        seconds = time.perf_counter() - started
        header = Evaluated(plan_digest=self.digest, site=self.site.name, seconds=seconds)
        return Message(header=header, counts=counts), kept

    def _explain(self, task: ExplainTask, parameters: Vector) -> Message:
        """Return sums of attributions; what explains single examples goes to this site's disk only."""
        if self.plan.evaluation.explain is None:
            raise TaskRefused("The plan has no [evaluation.explain].")
        started = time.perf_counter()
        seed = derive_seed(self.plan.seed, self.site.index, "explain")
        site = self.site
        found = explain_model(self.plan, site.dataset, site.splits, parameters, device=self._device, seed=seed)
        keep_files(self._folder_of(task), found.kept)
        header = Explained(plan_digest=self.digest, site=site.name, seconds=time.perf_counter() - started)
        return Message(header=header, sums=found.importance.to_sums())

    def _folder_of(self, task: ExplainTask) -> Path | None:
        """Return where single examples are kept; of a simulation below the run's folder, where this machine has it."""
        if self.site.simulation is None:
            return self._kept
        run = Path(task.folder)
        name = f"{self.site.index + 1:03d} {self.site.name}"
        return run / "explanations" / name if task.folder and run.is_dir() else None

    def _simulation(self) -> SimulatedSites:
        if self.site.simulation is None:
            raise TaskRefused("A real site has nobody's data but its own.")
        return self.site.simulation

    def _baseline(self, task: BaselineTask, parameters: Vector) -> Message:
        started = time.perf_counter()
        self._simulation()
        parameters = self._algorithm.whole(parameters, {})  # of layers that stay at a site, the initial ones
        if task.subject == "local":
            # Not protected: the data of a simulation and its baselines stay on the researcher's machine.
            procedure = self._prepare(self.site.splits) if self._protects_persons else self._procedure
            trained = self._train_alone(procedure, parameters)
            counts = {self.site.name: procedure.evaluate(trained, "test")}
            if task.everywhere:
                counts |= self._elsewhere(trained)
        else:
            counts = self._train_pooled(parameters)
        header = Baseline(
            plan_digest=self.digest,
            subject=task.subject,
            site=self.site.name,
            seconds=time.perf_counter() - started,
        )
        return Message(header=header, counts=counts)

    def _train_alone(self, procedure: Procedure, parameters: Vector) -> Vector:
        """Train for the study's whole budget without anybody else."""
        current = parameters.astype(np.float32, copy=True)
        for round_number in range(1, self.plan.rounds.count + 1):
            current += procedure.train(current, round_number=round_number, seed=self._seed(round_number)).delta
        return current

    def _elsewhere(self, trained: Vector) -> dict[str, Counts]:
        """Count what a model reaches at every other site, each of which prepares its examples as it does in rounds."""
        return {
            name: self._prepare(site_splits(self.plan, index)).evaluate(trained, "test")
            for index, name in enumerate(self._simulation().names)
            if index != self.site.index
        }

    def _train_pooled(self, parameters: Vector) -> dict[str, Counts]:
        """Train on the union of the training splits of all sites that take part; the budget is theirs together."""
        absent = self.plan.simulation.leave_out if self.plan.simulation is not None else None
        places = {name: index for index, name in enumerate(self._simulation().names) if name != absent}
        per_site = [site_splits(self.plan, index) for index in places.values()]
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
            for name, splits in zip(places, per_site, strict=True)
        }


def _changed(site: SiteData, device: torch.device, plan: StudyPlan) -> SupervisedTraining:
    """Return a procedure of another plan; no method, for who holds it must not hold the work that holds it."""
    return SupervisedTraining(plan=plan, dataset=site.dataset, splits=site.splits, device=device)
