"""Agnostic federated learning: minimax over the sites.

Mohri, Sivek, Suresh: Agnostic Federated Learning. ICML 2019, algorithm 1 (stochastic AFL), with a round of local
training in place of one gradient, as in federated averaging.
"""

from collections.abc import Iterator, Sequence
from typing import Annotated, Final

import numpy as np
import numpy.typing as npt
from pydantic import Field

from hansa_common.parameters import Accumulator, Vector
from hansa_common.settings import Strict
from hansa_server.strategies.strategy import STRATEGIES, Contribution, Strategy, weighted_sum

_PREFIX: Final = "lambda/"  # of a site's weight in a checkpoint


class AFLOptions(Strict):
    """Options of agnostic federated learning."""

    lambda_learning_rate: Annotated[float, Field(gt=0.0, le=1e3)] = 0.1
    """How fast the weights move towards the sites with the highest loss."""


def project(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the nearest point of the probability simplex, ``float64 [S]``.

    Duchi, Shalev-Shwartz, Singer, Chandra: Efficient Projections onto the l1-Ball. ICML 2008, figure 1.
    """
    falling = np.sort(values)[::-1]
    excess = (np.cumsum(falling) - 1.0) / np.arange(1, values.size + 1)
    threshold = excess[np.flatnonzero(falling > excess)[-1]]
    nearest: npt.NDArray[np.float64] = np.maximum(values - threshold, 0.0)
    return nearest


@STRATEGIES.register("afl")
class AFL(Strategy):
    """``w <- w + sum_k lambda_k * delta_k``, then ``lambda <- project(lambda + rate * F(w))``.

    ``lambda`` is a point of the simplex over the sites seen so far, uniform at first; a site that is new starts with
    the mean weight. Over the sites of a round ``lambda`` is scaled to sum to 1; one that is missing keeps its place,
    with gradient 0. ``F_k`` is the loss of the incoming model at site ``k``; numbers of examples do not count.
    """

    options = AFLOptions

    def __init__(self, *, lambda_learning_rate: float = 0.1) -> None:
        self._rate = lambda_learning_rate
        self._lambda: dict[str, float] = {}
        self._weights: dict[str, float] = {}

    def prepare(self, parameters: Vector, updates: Sequence[Contribution]) -> None:
        """Fix this round's weights, and move ``lambda`` for the next.

        Raises:
            RuntimeError: An update came without a loss; the round refuses those.
        """
        del parameters
        self._welcome([update.site for update in updates if update.site not in self._lambda])
        present = sum(self._lambda[update.site] for update in updates)
        self._weights = {
            update.site: self._lambda[update.site] / present if present > 0.0 else 1.0 / len(updates)
            for update in updates
        }
        losses = {update.site: _loss(update) for update in updates}
        sites = sorted(self._lambda)
        moved = project(np.array([self._lambda[site] + self._rate * losses.get(site, 0.0) for site in sites]))
        self._lambda = dict(zip(sites, moved.tolist(), strict=True))

    def _welcome(self, new: Sequence[str]) -> None:
        known, total = len(self._lambda), len(self._lambda) + len(new)
        self._lambda = {site: weight * known / total for site, weight in self._lambda.items()}
        self._lambda |= dict.fromkeys(new, 1.0 / total)

    def step(self, part: slice, parameters: Vector, updates: Iterator[Contribution]) -> Accumulator:
        """Add the weighted sum."""
        del part
        following: Accumulator = parameters + weighted_sum(parameters.size, updates, self._weights)
        return following

    def state(self) -> dict[str, npt.NDArray[np.float64]]:
        """Return ``lambda``, a number a site."""
        return {_PREFIX + site: np.array([weight]) for site, weight in self._lambda.items()}

    def restore(self, state: dict[str, npt.NDArray[np.float64]]) -> None:
        """Take ``lambda`` back.

        Raises:
            RuntimeError: The state is another strategy's.
        """
        if foreign := sorted(name for name in state if not name.startswith(_PREFIX)):
            raise RuntimeError(f"AFL keeps a weight for each site; the checkpoint has {foreign}.")
        self._lambda = {name.removeprefix(_PREFIX): float(values[0]) for name, values in state.items()}


def _loss(update: Contribution) -> float:
    if update.loss is None:
        raise RuntimeError(f"{update.site} told no loss of the incoming model.")
    return update.loss
