"""Models of a site's own: layers that stay, a model beside the common one, or the last model trained on.

FedBN: Li, Jiang, Zhang, Kamp, Dou, ICLR 2021. FedPer: Arivazhagan, Aggarwal, Singh, Choudhary, arXiv:1912.00818, 2019.
Ditto: Li, Hu, Beirami, Smith, ICML 2021, algorithm 1. Fine-tuning: Yu, Bagdasaryan, Shmatikov, arXiv:2002.04758, 2020.

Shapes: ``P`` values that travel, ``M`` of the whole model.
"""

from collections.abc import Callable, Iterable

import numpy as np

from hansa_client.site_state import State
from hansa_client.training.algorithm import Algorithm, LocalRound
from hansa_client.training.corrections import Proximal
from hansa_client.training.procedure import Procedure
from hansa_common.errors import TaskRefused
from hansa_common.parameters import ParameterSpec, Vector
from hansa_common.personalisation import PersonalisationPlan
from hansa_common.plan import StudyPlan
from hansa_common.seeds import derive_seed


class Division:
    """Which values of a model's vector travel, and which stay.

    Args:
        spec: Of the whole model.
        local: Names of the tensors that stay.
    """

    def __init__(self, spec: ParameterSpec, local: Iterable[str]) -> None:
        names = frozenset(local)
        self._stays = np.concatenate(
            [np.full(tensor.size, tensor.name in names, dtype=np.bool_) for tensor in spec.tensors]
        )
        self.shared_spec = ParameterSpec(tensors=tuple(tensor for tensor in spec.tensors if tensor.name not in names))

    def shared(self, whole: Vector) -> Vector:
        """Return the values that travel, ``float32 [P]``."""
        shared: Vector = whole[~self._stays]
        return shared

    def local(self, whole: Vector) -> Vector:
        """Return the values that stay, ``float32 [M - P]``."""
        local: Vector = whole[self._stays]
        return local

    def join(self, shared: Vector, local: Vector) -> Vector:
        """Return a whole model, ``float32 [M]``."""
        whole = np.empty(self._stays.size, np.float32)
        whole[~self._stays], whole[self._stays] = shared, local
        return whole


def local_tensors(plan: PersonalisationPlan, procedure: Procedure) -> frozenset[str]:
    """Return the names of the tensors that stay at the site with ``fedbn`` or ``fedper``.

    Raises:
        TaskRefused: The model has no such layer, or nothing would be left to share.
    """
    names = [tensor.name for tensor in procedure.spec.tensors]
    if plan.method == "fedbn":
        found = procedure.normalisation_tensors
        if not found:
            raise TaskRefused(
                "personalisation.method = 'fedbn' keeps the normalisation layers at the site, and this model has none.",
                advice="Ask for a model with normalisation, or for method = 'fedper', 'ditto' or 'finetune'.",
            )
    else:
        layers = plan.local or (_layer_of(next(name for name in reversed(names) if name.endswith("weight"))),)
        unknown = [layer for layer in layers if not any(_is_below(name, layer) for name in names)]
        if unknown:
            known = ", ".join(dict.fromkeys(_layer_of(name) for name in names))
            raise TaskRefused(f"personalisation.local: the model has no layer '{unknown[0]}'; it has {known}.")
        found = frozenset(name for name in names if any(_is_below(name, layer) for layer in layers))
    if len(found) == len(names):
        raise TaskRefused("personalisation: every layer stays at the site; nothing would be learned together.")
    return found


def _layer_of(tensor: str) -> str:
    return tensor.rpartition(".")[0] or tensor


def _is_below(tensor: str, layer: str) -> bool:
    return tensor == layer or tensor.startswith(layer + ".")


class Divided(Algorithm):
    """FedBN and FedPer: the site's layers are trained with the others, kept here, and put back in the next round."""

    def __init__(self, plan: StudyPlan, procedure: Procedure, prepare: Callable[[StudyPlan], Procedure]) -> None:
        super().__init__(plan, procedure, prepare)
        assert plan.personalisation is not None
        self._division = Division(procedure.spec, local_tensors(plan.personalisation, procedure))

    @property
    def spec(self) -> ParameterSpec:
        """The tensors that travel."""
        return self._division.shared_spec

    def initial(self) -> Vector:
        """Return the shared part of the initial model."""
        return self._division.shared(self._initial_model())

    def whole(self, vector: Vector, state: State) -> Vector:
        """Return the model of this site: what came, and its own layers."""
        local = state["local"] if state else self._division.local(self._initial_model())
        return self._division.join(vector, local)

    def train(self, vector: Vector, state: State, *, round_number: int, seed: int) -> LocalRound:
        """Train the whole model; only the shared part of the update is for release."""
        whole = self.whole(vector, state)
        done = super().train(whole, {}, round_number=round_number, seed=seed)
        return LocalRound(
            update=self._division.shared(done.update),
            trained=done.trained,
            state={"local": self._division.local(whole + done.update)},
        )

    def personal(self, vector: Vector, state: State, *, seed: int) -> Vector | None:
        """Return this site's model."""
        del seed
        return self.whole(vector, state)


class Ditto(Algorithm):
    """Trains the common model as ever, and the site's own, drawn to the common one that came in."""

    def train(self, vector: Vector, state: State, *, round_number: int, seed: int) -> LocalRound:
        """Do lines 4 to 7 of algorithm 1; both models take the plan's steps."""
        done = super().train(vector, {}, round_number=round_number, seed=seed)
        assert self._plan.personalisation is not None
        own = state["personal"] if state else self._initial_model()
        beside = self._procedure.train(
            own,
            round_number=round_number,
            seed=derive_seed(seed, "personal"),
            correction=Proximal(anchor=vector, weight=self._plan.personalisation.pull),
        )
        return LocalRound(update=done.update, trained=done.trained, state={"personal": own + beside.delta})

    def personal(self, vector: Vector, state: State, *, seed: int) -> Vector | None:
        """Return the site's own model."""
        del vector, seed
        return state["personal"] if state else self._initial_model()


class FineTune(Algorithm):
    """The last model, trained on at the site for some epochs at one learning rate."""

    def personal(self, vector: Vector, state: State, *, seed: int) -> Vector | None:
        """Train on from the common model.

        Raises:
            TrainingError: As the procedure.
        """
        del state
        assert self._plan.personalisation is not None
        rate = self._plan.personalisation.learning_rate or self._plan.training.learning_rate
        changes = {"learning_rate": rate, "epochs": self._plan.personalisation.epochs, "steps": None}
        training = self._plan.training.model_copy(update=changes | {"schedule": "constant", "warmup_rounds": 0})
        procedure = self._prepare(self._plan.model_copy(update={"training": training}))
        return vector + procedure.train(vector, round_number=1, seed=derive_seed(seed, "finetune")).delta
