"""What a study would have reached with some of its sites only: the same study, trained again by those.

Partition, splits, seeds and initial parameters stay those of the whole study, and each model is evaluated on the test
examples of all sites. The sites run in this process (engine ``inline``): for models that train in moments.
"""

import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hansa_common.errors import StudyFailed, UsageError
from hansa_common.messages import Evaluated, EvaluateTask, Initial, InitialTask, Message, Opened, OpenTask
from hansa_common.metrics import Counts
from hansa_common.parameters import Vector
from hansa_common.plan import StudyPlan
from hansa_common.protection import kind_of
from hansa_common.strategies import STRATEGIES
from hansa_server.engines.inline import InlineExchange
from hansa_server.exchange import Deadline, problem_of
from hansa_server.figures import merge, scores_of
from hansa_server.left_out import name_of
from hansa_server.progress import Quiet
from hansa_server.simulation import check, inline_sites
from hansa_server.store import Checkpoint, RunFolder
from hansa_server.study import Study
from hansa_server.trials.writing import Figure, higher_is_better

Coalition = frozenset[str]
FEWEST: Final = 2  # sites


@dataclass(frozen=True, slots=True, kw_only=True)
class Worth:
    """What one coalition's model is worth.

    Attributes:
        value: The figure on all sites' test examples together; a loss or an error counts negatively: more is better.
        parameters: ``P``, of the model.
    """

    value: float
    parameters: int


def require_individual_updates(plan: StudyPlan) -> None:
    """Return if the plan lets what single sites bring be told apart.

    Raises:
        UsageError: It masks or noises it, prepares by all sites, leaves a part to the sites, draws cohorts, or has
            no simulation.
    """
    if plan.simulation is None:
        raise UsageError("The plan has no [simulation]: contributions are measured by training again, on one machine.")
    if plan.privacy.secure_aggregation is not None:
        raise UsageError(
            "The plan masks the sites' updates, so that nobody learns what a single site brings.",
            advice="A contribution is just that. Measure it on a plan that the sites approve without masks.",
        )
    if plan.privacy.differential is not None:
        raise UsageError(
            "The plan has differential privacy: training again with every subset of sites would spend its budget as "
            "often, and the noise would hide what a site brings.",
            advice="Measure contributions on a plan that the sites approve without it.",
        )
    if plan.preprocessing.needs_statistics:
        raise UsageError(
            "The plan prepares the features by statistics of its sites, which differ for each subset of them.",
            advice="Measure contributions on the plan without [preprocessing].",
        )
    keeps_state = getattr(STRATEGIES.get(plan.aggregation.strategy), "keeps_state", False)
    if keeps_state or getattr(plan, "personalisation", None) is not None:
        raise UsageError(
            "The sites keep a part of this study to themselves, so it cannot be judged at a site that took no part.",
            advice="Measure contributions on the plan without [personalisation], with another aggregation.strategy.",
        )
    if plan.rounds.sites_per_round is not None:
        raise UsageError(
            "The plan draws the sites of a round, so a coalition would train another number of rounds than the whole.",
            advice="Leave rounds.sites_per_round out.",
        )


class Coalitions:
    """Trains a study again with any of its sites.

    Args:
        plan: With its seed; ``require_individual_updates`` has passed.
        figure: What a model is judged by.

    Raises:
        UsageError: The plan cannot be simulated, leaves out a site by itself, or has one site only.
        StudyFailed: A site cannot open the study.
    """

    def __init__(self, plan: StudyPlan, figure: Figure) -> None:
        self.plan = plan
        self.names: tuple[str, ...] = check(plan)
        if name_of(plan) is not None:
            raise UsageError("simulation.leave_out: a contribution is measured by leaving out each site in turn.")
        if len(self.names) < FEWEST:
            raise UsageError("The study has one site; there is nobody to share with.")
        self._figure: Figure = figure
        self._stop = threading.Event()
        self._sites = inline_sites(len(self.names))
        self._nodes = dict(zip(self.names, self._sites, strict=True))
        self._all = InlineExchange(self._sites, self._stop)
        opening = Message(header=OpenTask(plan=plan.model_dump_json()))
        for node, message in self._ask(opening, list(self._sites)):
            if not isinstance(message.header, Opened):
                raise StudyFailed(f"Site {node} could not open the study.")

    def worth(self, coalition: Coalition) -> Worth:
        """Return what the model of these sites is worth; of no site, that of the initial model.

        Raises:
            StudyFailed: Its training failed.
        """
        if not coalition:
            parameters = self._initial()
            return Worth(value=self._value({}, parameters), parameters=parameters.size)
        members = {name: self._nodes[name] for name in self.names if name in coalition}
        exchange = InlineExchange({node: self._sites[node] for node in members.values()}, self._stop)
        with tempfile.TemporaryDirectory(prefix="hansa-coalition-") as temporary:
            folder = _Passing.create(Path(temporary) / "run")
            try:
                study = Study(plan=self.plan, folder=folder, engine="inline", observer=Quiet(), names=tuple(members))
                study.run(exchange)
            finally:
                folder.close()
            assert study.parameters is not None
            assert study.closing is not None
            value = self._value(dict(study.closing.test), study.parameters)
            return Worth(value=value, parameters=study.parameters.size)

    def _initial(self) -> Vector:
        task = Message(header=InitialTask(plan_digest=self.plan.digest()))
        ((_, message),) = self._ask(task, [self._nodes[min(self.names)]])
        if not isinstance(message.header, Initial) or message.vector is None:
            raise StudyFailed("The model could not be initialised.")
        return message.vector

    def _value(self, known: dict[str, Counts], parameters: Vector) -> float:
        """Judge a model on the test examples of all sites, members or not."""
        names = {node: name for name, node in self._nodes.items() if name not in known}
        task = Message(header=EvaluateTask(plan_digest=self.plan.digest()), vector=parameters)
        counts = dict(known)
        for node, message in self._ask(task, list(names)):
            if not isinstance(message.header, Evaluated):
                raise StudyFailed(f"A model could not be evaluated at {names[node]}.")
            counts[names[node]] = message.counts["test"]
        found: float | None = getattr(scores_of(merge(counts)), self._figure)
        if found is None:
            raise StudyFailed(f"The figure '{self._figure}' cannot be computed on the sites' test splits.")
        return found if higher_is_better(self._figure) else -found

    def _ask(self, message: Message, nodes: Sequence[int]) -> list[tuple[int, Message]]:
        deadline = Deadline(self.plan.rounds.deadline_seconds)
        found = []
        for answer in self._all.ask([(node, message) for node in nodes], deadline=deadline, kind=kind_of(self.plan)):
            if answer.message is None:
                raise StudyFailed(f"A site did not answer: {problem_of(answer)}")
            found.append((answer.node, answer.message))
        return found


class _Passing(RunFolder):
    """A run's folder without checkpoints: nothing resumes a coalition, and writing one can cost more than a round."""

    def save_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Keep nothing."""
