"""What a federated algorithm adds to the gradient of each local step.

Shapes: ``P`` parameters, ``T`` of them trainable: the first.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch

from hansa_client.training.flat_model import FlatModel
from hansa_common.parameters import Vector


class Correction(ABC):
    """A term that is known before training starts; it sees no example, so it costs no privacy."""

    @abstractmethod
    def start(self, model: FlatModel) -> Callable[[], None]:
        """Return what changes the model's gradient in place, once before each step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proximal(Correction):
    """The gradient of ``weight / 2 * ||w - anchor||^2``.

    Li et al., "Federated Optimization in Heterogeneous Networks", MLSys 2020, equation 2 (``mu``); Li et al., "Ditto",
    ICML 2021, equation 1 (``lambda``).

    Attributes:
        anchor: ``float32 [P]``.
        weight: Not negative; with 0 nothing is added, and training gives the same bits as without.
    """

    anchor: Vector = field(repr=False)
    weight: float

    def start(self, model: FlatModel) -> Callable[[], None]:
        """See ``Correction``."""
        if not self.weight:
            return lambda: None
        trained, gradient = model.trainable.data, model.gradient
        anchor = on_device(self.anchor[: len(trained)], trained.device)

        def add() -> None:
            gradient.add_(trained - anchor, alpha=self.weight)

        return add


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift(Correction):
    """``c - c_i``: the difference of SCAFFOLD's control variates.

    Karimireddy et al., ICML 2020, algorithm 1, line 10.

    Attributes:
        difference: ``float32 [P]``.
    """

    difference: Vector = field(repr=False)

    def start(self, model: FlatModel) -> Callable[[], None]:
        """See ``Correction``."""
        gradient = model.gradient
        difference = on_device(self.difference[: len(gradient)], gradient.device)

        def add() -> None:
            gradient.add_(difference)

        return add


def on_device(values: Vector, device: torch.device) -> torch.Tensor:
    """Return a copy of a vector, which may be a read-only view, on a device."""
    return torch.from_numpy(np.array(values, dtype=np.float32)).to(device)
