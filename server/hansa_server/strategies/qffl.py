"""q-FedAvg, the method for q-fair federated learning (q-FFL): sites with a higher loss count more.

Li, Sanjabi, Beirami, Smith: Fair Resource Allocation in Federated Learning. ICLR 2020, algorithm 2.
"""

from collections.abc import Iterator, Sequence
from typing import Annotated, Final

from pydantic import Field

from hansa_common.parameters import Accumulator, Vector, l2_norm
from hansa_common.settings import Strict
from hansa_common.training_plan import TrainingPlan
from hansa_server.strategies.strategy import STRATEGIES, Contribution, Strategy, weighted_sum

_LEAST: Final = 1e-10
"""Added to each loss, as in the authors' code: a loss of 0 to the power of q - 1 is not finite."""


class QFFLOptions(Strict):
    """Options of q-FedAvg."""

    q: Annotated[float, Field(ge=0.0, le=100.0)] = 1.0
    """How much fairness counts; 0 is federated averaging."""


@STRATEGIES.register("qffl")
class QFFL(Strategy):
    """``w <- w - sum_k n_k Delta_k / sum_k n_k h_k``, with ``F_k`` the loss of the incoming model at site ``k``.

    ``Delta_k = F_k^q * L * (w - w_k)``, ``h_k = q * F_k^(q-1) * ||L * (w - w_k)||^2 + L * F_k^q`` and ``L``, one over
    the sites' learning rate, in place of the Lipschitz constant. The paper draws sites in proportion to ``n_k``; here
    all of the cohort count, weighted by ``n_k``.
    """

    options = QFFLOptions

    def __init__(self, *, q: float = 1.0) -> None:
        self._q = q
        self._lipschitz = 1.0
        self._weights: dict[str, float] = {}

    def suit(self, training: TrainingPlan) -> None:
        """Take one over the learning rate for the Lipschitz constant."""
        self._lipschitz = 1.0 / training.learning_rate

    def prepare(self, parameters: Vector, updates: Sequence[Contribution]) -> None:
        """Work out each site's weight in the step.

        Raises:
            RuntimeError: An update came without a loss; the round refuses those.
        """
        del parameters
        q, bound = self._q, self._lipschitz
        steep: dict[str, float] = {}
        curvature = 0.0
        largest = max(_loss(update) for update in updates)
        for update in updates:
            # over the largest: both sums then have the factor largest^q, which cancels and could overflow
            relative = _loss(update) / largest
            steep[update.site] = update.num_examples * relative**q * bound
            squared = (bound * l2_norm(update.delta)) ** 2
            grown = q * relative ** (q - 1.0) * squared / largest
            curvature += update.num_examples * (grown + bound * relative**q)
        self._weights = {site: weight / curvature for site, weight in steep.items()}

    def step(self, part: slice, parameters: Vector, updates: Iterator[Contribution]) -> Accumulator:
        """Add the weighted sum."""
        del part
        following: Accumulator = parameters + weighted_sum(parameters.size, updates, self._weights)
        return following


def _loss(update: Contribution) -> float:
    if update.loss is None:
        raise RuntimeError(f"{update.site} told no loss of the incoming model.")
    return update.loss + _LEAST
