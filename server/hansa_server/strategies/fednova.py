"""FedNova: normalised averaging, for sites that take different numbers of steps.

Wang, Liu, Liang, Joshi, Poor: Tackling the Objective Inconsistency Problem in Heterogeneous Federated Optimization.
NeurIPS 2020, equation 6 and section 4.
"""

import math
from collections.abc import Iterator, Sequence

from hansa_common.parameters import Accumulator, Vector
from hansa_common.strategies import FedNovaOptions
from hansa_common.training_plan import TrainingPlan
from hansa_server.strategies.strategy import STRATEGIES, Contribution, Strategy, weighted_sum


def accumulated(steps: int, momentum: float, pull: float = 0.0) -> float:
    """Return ``||a||_1``: how many gradients, each at full weight, ``steps`` local steps add up to.

    With momentum ``rho`` step ``j`` of ``tau`` moves the model by ``1 + rho + ... + rho^(tau - j)`` times its gradient,
    so ``a_j = (1 - rho^(tau - j + 1)) / (1 - rho)``. With a proximal term each later step draws the model back by
    ``alpha``, the learning rate times ``mu``, so ``a_j = (1 - alpha)^(tau - j)``. The sum over ``j`` is ``tau`` without
    either; a plan has no more than one.

    Args:
        steps: ``tau``.
        momentum: ``rho``, below 1.
        pull: ``alpha``, below 1.
    """
    if pull:
        return -math.expm1(steps * math.log1p(-pull)) / pull
    if not momentum:
        return float(steps)
    return (steps - momentum * (1.0 - momentum**steps) / (1.0 - momentum)) / (1.0 - momentum)


@STRATEGIES.register("fednova")
class FedNova(Strategy):
    """``w <- w + tau_eff * sum_k p_k * delta_k / ||a_k||_1``, with ``tau_eff = sum_k p_k * ||a_k||_1``.

    ``p_k = n_k / n`` over the sites that replied. ``delta_k / ||a_k||_1`` is the site's average gradient step, so that
    a site with more steps does not pull the model towards its own optimum. Where all sites take as many steps it is
    federated averaging. With ``mu`` the sites train with the proximal term of FedProx, see
    ``hansa_client.training.corrections``, and ``a_k`` is that of its steps. ``tau_eff`` is the same sum then; the
    authors' code takes ``sum_k p_k * tau_k`` with a proximal term, which is a longer step.
    """

    options = FedNovaOptions

    def __init__(self, *, mu: float = 0.0) -> None:
        self._mu = mu
        self._momentum = self._pull = 0.0
        self._weights: dict[str, float] = {}

    def suit(self, training: TrainingPlan) -> None:
        """Note the momentum and the rate of the sites' SGD; a plan with another optimiser is refused."""
        self._momentum, self._pull = training.momentum, training.learning_rate * self._mu

    def prepare(self, parameters: Vector, updates: Sequence[Contribution]) -> None:
        """Weigh each site by its examples over its steps; the round has held those against the plan."""
        del parameters
        total = sum(update.num_examples for update in updates)
        share = {update.site: update.num_examples / total for update in updates}
        length = {update.site: accumulated(update.steps, self._momentum, self._pull) for update in updates}
        effective = sum(share[site] * length[site] for site in share)
        self._weights = {site: effective * share[site] / length[site] for site in share}

    def step(self, part: slice, parameters: Vector, updates: Iterator[Contribution]) -> Accumulator:
        """Add the normalised average."""
        del part
        following: Accumulator = parameters + weighted_sum(parameters.size, updates, self._weights)
        return following
