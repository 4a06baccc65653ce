"""What an aggregation strategy is: it steps the global parameters, one part of them at a time over all updates.

So nothing of the model's size is in memory, and a rule sees a part of all updates side by side, whether it needs their
sum or compares them. Shapes: ``P`` parameters, ``C`` of them in a part, at most ``hansa_common.parameters.CHUNK``.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from hansa_common.errors import PlanError, UsageError
from hansa_common.mapping import give_back
from hansa_common.parameters import Accumulator, ParameterSpec, Vector, add_scaled, parts
from hansa_common.plan import AggregationPlan
from hansa_common.plan_options import parse_options
from hansa_common.registry import Registry
from hansa_common.settings import Strict
from hansa_common.training_plan import TrainingPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class Contribution:
    """One site's valid update, or a part of it.

    Attributes:
        site: Whose it is.
        delta: ``float32 [P]``, or ``[C]`` of a part; read only.
        num_examples: Size of the site's training split.
        steps: Optimiser steps the site took.
        loss: Mean loss of the incoming model on the site's training split, where the strategy asks for it.
    """

    site: str
    delta: Vector = field(repr=False)
    num_examples: int
    steps: int
    loss: float | None = None


class Strategy(ABC):
    """An aggregation rule; ``next_parameters`` calls ``step`` once for each part of each round.

    A strategy that keeps state over rounds, a vector for instance whose ``[part]`` it steps too, returns it from
    ``state``; it is in every checkpoint.
    """

    options: type[Strict]
    left_out: tuple[str, ...] = ()
    """Sites whose update did not count in the last round, of a rule that chooses."""

    def introduce(self, *, sites: int) -> None:  # noqa: B027 - most rules need none
        """Learn how many sites the study has, those included that a round leaves out; before its first round.

        Args:
            sites: ``N``.
        """

    def inspect(self, spec: ParameterSpec) -> None:  # noqa: B027 - most rules treat all values alike
        """Learn which tensors the model has; before its first round."""

    def suit(self, training: TrainingPlan) -> None:  # noqa: B027 - most rules do not depend on it
        """Take from the plan what the rule depends on in how the sites train.

        Raises:
            PlanError: It does not go with that.
        """

    def require(self, sites: Collection[str]) -> None:  # noqa: B027 - most rules take whoever is there
        """Look at who takes part in the study, once that is known.

        Raises:
            StudyFailed: The rule cannot do its work among them.
        """

    def prepare(self, parameters: Vector, updates: Sequence[Contribution]) -> None:  # noqa: B027 - most rules need none
        """Look at a round's updates as a whole, before they are stepped part by part: norms, distances, weights.

        Args:
            parameters: ``float32 [P]``, the current ones.
            updates: ``float32 [P]`` each, in ascending site id; they may lie in mapped files, so go part by part.

        Raises:
            StudyFailed: The rule cannot do its work with those that delivered.
        """

    @abstractmethod
    def step(self, part: slice, parameters: Vector, updates: Iterator[Contribution]) -> Accumulator:
        """Return one part of the next global parameters.

        Args:
            part: Where it lies in the vector.
            parameters: ``float32 [C]``, the part of the current ones.
            updates: The same part of the round's updates, at least one, in ascending site id. A rule that adds them up
                has one at a time in memory; one that compares them makes a list.

        Returns:
            ``float64 [C]``, rounded to float32 by the caller.
        """

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


def weighted_mean(size: int, updates: Iterator[Contribution]) -> Accumulator:
    """Return ``sum_k (n_k / n) * delta_k``, ``float64 [size]``, with ``n = sum_k n_k``."""
    total, num_examples = np.zeros(size), 0
    for update in updates:
        add_scaled(total, update.delta, update.num_examples)
        num_examples += update.num_examples
    mean: Accumulator = total / num_examples
    return mean


def weighted_sum(size: int, updates: Iterator[Contribution], weights: Mapping[str, float]) -> Accumulator:
    """Return ``sum_k weights[k] * delta_k``, ``float64 [size]``; a site without a weight adds nothing."""
    total = np.zeros(size)
    for update in updates:
        if weight := weights.get(update.site, 0.0):
            add_scaled(total, update.delta, weight)
    return total


def kept(name: str, state: Mapping[str, npt.NDArray[np.float64]], *allowed: str) -> dict[str, Accumulator]:
    """Return copies of a strategy's vectors from a checkpoint: ``restore`` of the rules that keep some.

    Raises:
        RuntimeError: The state is another strategy's.
    """
    if state and set(state) != set(allowed):
        raise RuntimeError(f"{name} keeps {', '.join(allowed)}; the checkpoint has {sorted(state)}.")
    return {key: np.array(values, np.float64) for key, values in state.items()}


def next_parameters(strategy: Strategy, parameters: Vector, updates: Sequence[Contribution]) -> Iterator[Vector]:
    """Yield the next global parameters part by part, ``float32 [C]`` each.

    Args:
        strategy: Steps them.
        parameters: ``float32 [P]``, the current ones.
        updates: The round's, ``float32 [P]`` each, in ascending site id.

    Raises:
        RuntimeError: There is no update.
    """
    if not updates:
        raise RuntimeError("There is no update to fold in.")
    strategy.prepare(parameters, updates)
    for part in parts(parameters.size):
        with np.errstate(over="ignore"):  # the study refuses a model that is not finite
            following = strategy.step(part, parameters[part], _cut(updates, part)).astype(np.float32)
        give_back(parameters[part])
        yield following


def _cut(updates: Sequence[Contribution], part: slice) -> Iterator[Contribution]:
    for update in updates:
        delta = update.delta[part]
        yield replace(update, delta=delta)
        give_back(delta)


STRATEGIES: Registry[type[Strategy]] = Registry("aggregation strategy")


def build_strategy(plan: AggregationPlan, training: TrainingPlan | None = None) -> Strategy:
    """Make the strategy a plan names.

    Args:
        plan: Names it, and its options.
        training: How the sites train, for the rules that depend on it.

    Raises:
        PlanError: There is no such strategy, it has no such option, or it does not go with how the sites train.
    """
    try:
        kind = STRATEGIES.find(plan.strategy)
    except UsageError as error:
        raise PlanError(f"aggregation.strategy: {error}", path="aggregation.strategy") from None
    parse_options(kind.options, plan.options, section="aggregation")
    strategy = kind(**plan.options)
    if training is not None:
        strategy.suit(training)
    return strategy
