"""What a federated algorithm does at a site: one round and one evaluation, around the plan's training procedure.

Shapes: ``P`` values that travel, ``M`` values of the whole model (``P`` unless layers stay at the site), ``W`` values
that are carried: ``P``, and what else the algorithm sends beside the model.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from hansa_client.site_state import State
from hansa_client.training.corrections import Correction, Proximal
from hansa_client.training.procedure import Procedure, Trained
from hansa_common.parameters import ParameterSpec, Vector
from hansa_common.plan import StudyPlan
from hansa_common.seeds import derive_seed
from hansa_common.strategies import FedNovaOptions, FedProxOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalRound:
    """What one round gives at a site.

    Attributes:
        update: ``float32 [W]``, what may be released.
        trained: Of the procedure.
        state: What stays here for the next round.
    """

    update: Vector = field(repr=False)
    trained: Trained
    state: State = field(default_factory=dict, repr=False)


class Algorithm:
    """Federated averaging, with the proximal term of FedProx or FedNova where the plan has one: a site keeps nothing.

    McMahan et al., AISTATS 2017, algorithm 1; Li et al., MLSys 2020, algorithm 2. The others derive from it.

    Args:
        plan: The study.
        procedure: Trains the whole model.
        prepare: Makes a procedure of the same site for a changed plan.
    """

    def __init__(self, plan: StudyPlan, procedure: Procedure, prepare: Callable[[StudyPlan], Procedure]) -> None:
        self._plan = plan
        self._procedure = procedure
        self._prepare = prepare

    @property
    def spec(self) -> ParameterSpec:
        """The tensors that travel, ``P`` values."""
        return self._procedure.spec

    def initial(self) -> Vector:
        """Return what the first round starts from, ``float32 [P]``, as the plan's seed gives it."""
        return self._initial_model()

    def whole(self, vector: Vector, state: State) -> Vector:
        """Return the model to evaluate, ``float32 [M]``, from what came, ``[P]`` or ``[W]``."""
        del state
        return vector

    def train(self, vector: Vector, state: State, *, round_number: int, seed: int) -> LocalRound:
        """Train from ``float32 [W]``.

        Raises:
            TrainingError: As the procedure.
        """
        del state
        trained = self._procedure.train(
            vector, round_number=round_number, seed=seed, correction=self._correction(vector)
        )
        return LocalRound(update=trained.delta, trained=trained)

    def personal(self, vector: Vector, state: State, *, seed: int) -> Vector | None:
        """Return this site's own model at the study's end, ``float32 [M]``; ``None`` where the plan wants none."""
        del vector, state, seed
        return None

    def _initial_model(self) -> Vector:
        return self._procedure.initial(derive_seed(self._plan.seed, "initial"))

    def _correction(self, whole: Vector) -> Correction | None:
        """Return what the plan's strategy adds to the gradients."""
        options = self._plan.site_options()
        if isinstance(options, FedProxOptions | FedNovaOptions):
            return Proximal(anchor=whole, weight=options.mu)
        return None
