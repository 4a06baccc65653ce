"""FedNova: normalised averaging, for sites that take different numbers of steps.

Wang, Liu, Liang, Joshi, Poor: Tackling the Objective Inconsistency Problem in Heterogeneous Federated Optimization.
NeurIPS 2020, equation 6 and section 4.
"""

from collections.abc import Iterator, Sequence

from hansa_common.parameters import Accumulator, Vector
from hansa_common.settings import Strict
from hansa_common.training_plan import TrainingPlan
from hansa_server.strategies.strategy import STRATEGIES, Contribution, Strategy, weighted_sum


class FedNovaOptions(Strict):
    """FedNova has no options: steps come with the updates, momentum from the plan's training."""


def accumulated(steps: int, momentum: float) -> float:
    """Return ``||a||_1``: how many gradients, each at full weight, ``steps`` steps of SGD with momentum add up to.

    Step ``j`` of ``tau`` moves the model by ``1 + rho + ... + rho^(tau - j)`` times its gradient, so
    ``a_j = (1 - rho^(tau - j + 1)) / (1 - rho)``; the sum over ``j`` is ``tau`` without momentum.
    """
    if not momentum:
        return float(steps)
    return (steps - momentum * (1.0 - momentum**steps) / (1.0 - momentum)) / (1.0 - momentum)


@STRATEGIES.register("fednova")
class FedNova(Strategy):
    """``w <- w + tau_eff * sum_k p_k * delta_k / ||a_k||_1``, with ``tau_eff = sum_k p_k * ||a_k||_1``.

    ``p_k = n_k / n`` over the sites that replied. ``delta_k / ||a_k||_1`` is the site's average gradient step, so that
    a site with more steps does not pull the model towards its own optimum. Where all sites take as many steps it is
    federated averaging.
    """

    options = FedNovaOptions

    def __init__(self) -> None:
        self._momentum = 0.0
        self._weights: dict[str, float] = {}

    def suit(self, training: TrainingPlan) -> None:
        """Note the momentum of the sites' SGD; the plan is refused with another optimiser."""
        self._momentum = training.momentum

    def prepare(self, parameters: Vector, updates: Sequence[Contribution]) -> None:
        """Weigh each site by its examples over its steps; the round has held those against the plan."""
        del parameters
        total = sum(update.num_examples for update in updates)
        share = {update.site: update.num_examples / total for update in updates}
        length = {update.site: accumulated(update.steps, self._momentum) for update in updates}
        effective = sum(share[site] * length[site] for site in share)
        self._weights = {site: effective * share[site] / length[site] for site in share}

    def step(self, part: slice, parameters: Vector, updates: Iterator[Contribution]) -> Accumulator:
        """Add the normalised average."""
        del part
        following: Accumulator = parameters + weighted_sum(parameters.size, updates, self._weights)
        return following
