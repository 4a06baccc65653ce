"""What a local training procedure is: it turns incoming parameters and a site's data into a delta and counts.

Shapes: ``P`` parameters.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from hansa_client.training.corrections import Correction
from hansa_client.training.examples import Examples
from hansa_common.metrics import Counts
from hansa_common.parameters import ParameterSpec, Vector

Split = Literal["train", "validation", "test"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """What local training gives.

    Attributes:
        delta: ``float32 [P]``, the parameters after training minus the incoming ones.
        num_examples: Size of the training split.
        loss: Mean training loss over all examples seen in this call.
        steps: Optimiser steps taken.
    """

    delta: Vector = field(repr=False)
    num_examples: int
    loss: float
    steps: int


class Procedure(ABC):
    """One site's training, warm: its data and model stay loaded between rounds."""

    @property
    @abstractmethod
    def spec(self) -> ParameterSpec:
        """The tensors of the model."""

    @property
    @abstractmethod
    def num_trainable(self) -> int:
        """How many of the vector's values are trained: the first ones."""

    @property
    @abstractmethod
    def normalisation_tensors(self) -> frozenset[str]:
        """Names of the normalisation layers' parameters and running statistics."""

    @abstractmethod
    def initial(self, seed: int) -> Vector:
        """Return freshly initialised parameters ``float32 [P]``, the same for one seed on every machine."""

    @abstractmethod
    def train(
        self, parameters: Vector, *, round_number: int, seed: int, correction: Correction | None = None
    ) -> Trained:
        """Train from ``parameters`` for what the plan calls one round.

        Args:
            parameters: ``float32 [P]``.
            round_number: From 1.
            seed: Of whatever is drawn.
            correction: What is added to the gradient of each step.

        Raises:
            TrainingOutOfMemory: The device has too little memory.
            TrainingError: Training diverged (a loss that is not finite) or failed.
        """

    def examples(self) -> Examples:
        """Return the training split, for what is computed from it in another way than by training.

        Raises:
            RuntimeError: This procedure protects its examples one by one.
        """
        raise RuntimeError(f"{type(self).__name__} hands out no examples.")

    def evaluate_last(self, parameters: Vector) -> dict[str, Counts]:
        """Count the study's last model on validation and test split; by name."""
        return {"validation": self.evaluate(parameters, "validation"), "test": self.evaluate(parameters, "test")}

    def evaluate_together(self, versions: Sequence[Vector]) -> Counts:
        """Count what several versions of the model, ``float32 [P]`` each, get right on the test split as one.

        Raises:
            RuntimeError: This procedure protects its examples one by one.
        """
        raise RuntimeError(f"{type(self).__name__} counts no ensemble, of {len(versions)} versions or another number.")

    @abstractmethod
    def evaluate(self, parameters: Vector, split: Split) -> Counts:
        """Count what the model with these parameters gets right on one split."""
