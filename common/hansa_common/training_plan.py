"""``[training]`` of a plan: what a site does with the model in one round."""

import math
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from hansa_common.plan_names import Positive
from hansa_common.settings import Strict


class AugmentationPlan(Strict):
    """``[training.augmentation]``: random changes to training images, drawn anew for each batch."""

    flip: bool = False
    """Mirror left and right with probability 1/2."""
    crop: Annotated[int, Field(ge=0, le=64)] = 0
    """Pad by this many pixels on each side and cut out the original size at a random place."""
    noise: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    """Standard deviation of Gaussian noise added to each feature."""
    mixup: Annotated[float, Field(ge=0.0, le=10.0)] = 0.0
    """Alpha of mixup (Zhang et al., ICLR 2018); 0 is off."""


class TrainingPlan(Strict):
    """``[training]``: what a site does with the model in one round."""

    optimizer: Literal["adam", "sgd"] = "adam"
    learning_rate: Positive = 1e-3
    momentum: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0
    batch_size: Annotated[int, Field(ge=1, le=65_536)] = 32
    epochs: Annotated[int, Field(ge=1, le=10_000)] | None = None
    steps: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How the learning rate falls from its first step to the last step of the last round."""
    warmup_rounds: Annotated[int, Field(ge=0)] = 0
    """Rounds in which the learning rate rises linearly from 0."""
    gradient_clip: Positive | None = None
    """Upper bound of the L2 norm of a step's gradient."""
    class_weights: Literal["none", "balanced"] | tuple[Positive, ...] = "none"
    """``balanced``: N / (K * count) of the site's own training split."""
    precision: Literal["float32", "bfloat16"] = "float32"
    augmentation: AugmentationPlan = AugmentationPlan()

    @model_validator(mode="after")
    def _belongs_together(self) -> Self:
        if (self.epochs is None) == (self.steps is None):
            found = "neither" if self.epochs is None else "both"
            raise ValueError(f"found {found} of 'epochs' and 'steps'; allowed is exactly one of them.")
        if self.optimizer == "adam" and self.momentum:
            raise ValueError(f"momentum: found {self.momentum:g}; allowed is 0 with optimizer = 'adam'.")
        return self

    def steps_of_round(self, examples: int) -> int:
        """Return how many optimiser steps a site with so many training examples takes in a round."""
        return self.steps or (self.epochs or 1) * math.ceil(examples / self.batch_size)
