"""What an aggregation strategy is: it folds in updates one at a time and steps the global parameters.

Shapes: ``P`` parameters.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from hansa_common.errors import PlanError, UsageError
from hansa_common.parameters import Vector
from hansa_common.plan import AggregationPlan, parse_options
from hansa_common.registry import Registry
from hansa_common.settings import Strict


@dataclass(frozen=True, slots=True, kw_only=True)
class Contribution:
    """One site's valid update.

    Attributes:
        site: Whose it is.
        delta: ``float32 [P]``, read only.
        num_examples: Size of the site's training split.
        steps: Optimiser steps the site took.
    """

    site: str
    delta: Vector = field(repr=False)
    num_examples: int
    steps: int


class Strategy(ABC):
    """An aggregation rule; ``rounds`` calls ``fold`` in ascending site id, then ``finish``, once a round.

    A strategy that keeps state over rounds returns it from ``state``; it is in every checkpoint.
    """

    options: type[Strict]

    @abstractmethod
    def fold(self, contribution: Contribution) -> None:
        """Take one update in; its array may be reused afterwards."""

    @abstractmethod
    def finish(self, parameters: Vector) -> Vector:
        """Return the next global parameters from the current ones and what was folded in, and start afresh."""

    def state(self) -> dict[str, npt.NDArray[np.float64]]:
        """Return what must survive a restart, beside the global parameters."""
        return {}

    def restore(self, state: dict[str, npt.NDArray[np.float64]]) -> None:
        """Take back what ``state`` returned.

        Raises:
            RuntimeError: The state is another strategy's.
        """
        if state:
            raise RuntimeError(f"{type(self).__name__} keeps no state; the checkpoint has {sorted(state)}.")


STRATEGIES: Registry[type[Strategy]] = Registry("aggregation strategy")


def build_strategy(plan: AggregationPlan) -> Strategy:
    """Make the strategy a plan names.

    Raises:
        PlanError: There is no such strategy, or it has no such option.
    """
    try:
        strategy = STRATEGIES.find(plan.strategy)
    except UsageError as error:
        raise PlanError(f"aggregation.strategy: {error}", path="aggregation.strategy") from None
    parse_options(strategy.options, plan.options, section="aggregation")
    return strategy(**plan.options)
