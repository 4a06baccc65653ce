"""What the rules that withstand hostile sites have in common: how many there may be, and nearest-neighbour mixing.

Allouah, Farhadkhani, Guerraoui, Gupta, Pinot, Stephan: Fixing by Mixing: A Recipe for Optimal Byzantine ML under
Heterogeneity. AISTATS 2023, algorithm 2 (NNM).

All these rules count each site the same: a site could lie about its number of examples. Whatever needs distances gets
them from the Gram matrix of the updates, which is summed in one pass over their parts; a rule that returns a weighted
sum of updates works out its weights from that matrix alone, so it may iterate as often as it likes.

Shapes: ``S`` sites of the round, ``P`` parameters, ``C`` of a part, ``B`` of a block of it.
"""

import math
from abc import abstractmethod
from collections.abc import Collection, Iterator, Sequence
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt
from pydantic import model_validator

from hansa_common.errors import StudyFailed
from hansa_common.mapping import give_back
from hansa_common.parameters import Accumulator, Vector, parts
from hansa_common.settings import Strict
from hansa_common.strategies import Hostile, require_hostile
from hansa_server.strategies.strategy import Contribution, Strategy, weighted_sum

_BLOCK: Final = 1 << 14  # values of each site at a time; 100 sites in float64 are 13 MB
_ROUNDING: Final = 1e-9  # a share of 0.2 of 15 sites is 3, not 4


class RobustOptions(Strict):
    """Options of a rule that needs no number of hostile sites by itself."""

    hostile: Hostile | None = None
    """How many sites may be hostile: their number, or their share of those that deliver."""
    nnm: bool = False
    """Mix each update with its nearest neighbours first."""

    @model_validator(mode="after")
    def _mixing_needs_a_number(self) -> Self:
        require_hostile(self.hostile, nnm=self.nnm)
        return self


class HostileOptions(RobustOptions):
    """Options of a rule that needs that number."""

    hostile: Hostile


class Robust(Strategy):
    """A rule that withstands some hostile sites, or says that it cannot."""

    spare = 0
    """Honest sites that the rule needs beyond a majority of one."""

    def __init__(self, *, hostile: float | None = None, nnm: bool = False) -> None:
        self._hostile = hostile
        self._nnm = nnm

    def require(self, sites: Collection[str]) -> None:
        """Refuse a study with so many sites, if a rule for the assumed number of hostile ones needs more."""
        self.hostile_among(len(sites))

    def hostile_among(self, sites: int) -> int:
        """Return ``f``: how many of so many sites are assumed to be hostile, 0 where no number is given.

        Raises:
            StudyFailed: ``2 * f + spare >= sites``: no rule could tell them from the others.
        """
        hostile = self._hostile or 0
        count = hostile if isinstance(hostile, int) else math.ceil(hostile * sites - _ROUNDING)
        needed = 2 * count + self.spare + 1
        if sites < needed:
            raise StudyFailed(
                f"{type(self).__name__} cannot withstand {count} hostile sites among {sites}: for so many it needs "
                f"{needed}.",
                advice="Ask more sites, raise rounds.quorum, or lower aggregation.hostile in a new plan.",
            )
        return count

    def mixing(self, gram: Accumulator) -> Accumulator:
        """Return the matrix ``[S, S]`` whose rows mix the updates; the identity without ``nnm``."""
        sites = len(gram)
        count = self.hostile_among(sites)
        return nearest_neighbours(gram, sites - count) if self._nnm else np.eye(sites)


class CoordinateRule(Robust):
    """A rule that works on each coordinate by itself."""

    def prepare(self, parameters: Vector, updates: Sequence[Contribution]) -> None:
        """Find each update's nearest neighbours, where the plan asks for it."""
        del parameters
        self._count = self.hostile_among(len(updates))
        self._mixing = self.mixing(gram_of([update.delta for update in updates])) if self._nnm else None

    def step(self, part: slice, parameters: Vector, updates: Iterator[Contribution]) -> Accumulator:
        """Combine all updates of a part, a block at a time."""
        del part
        deltas = [update.delta for update in updates]
        following = parameters.astype(np.float64)
        for start in range(0, parameters.size, _BLOCK):
            block = slice(start, start + _BLOCK)
            values = np.stack([delta[block] for delta in deltas]).astype(np.float64)
            if self._mixing is not None:
                values = self._mixing @ values
            following[block] += self.combine(values, self._count)
        return following

    @abstractmethod
    def combine(self, values: Accumulator, hostile: int) -> Accumulator:
        """Return one value for each coordinate, ``float64 [B]``, from those of all sites, ``float64 [S, B]``."""


class VectorRule(Robust):
    """A rule whose result is a weighted sum of the updates."""

    def prepare(self, parameters: Vector, updates: Sequence[Contribution]) -> None:
        """Work out the weights from the Gram matrix of the updates, mixed where the plan asks for it."""
        del parameters
        sites = [update.site for update in updates]
        gram = gram_of([update.delta for update in updates])
        mixing = self.mixing(gram)
        weights = self.weigh(mixing @ gram @ mixing.T, sites) @ mixing
        self._weights: dict[str, float] = dict(zip(sites, weights.tolist(), strict=True))

    def step(self, part: slice, parameters: Vector, updates: Iterator[Contribution]) -> Accumulator:
        """Add the weighted sum."""
        del part
        following: Accumulator = parameters + weighted_sum(parameters.size, updates, self._weights)
        return following

    @abstractmethod
    def weigh(self, gram: Accumulator, sites: Sequence[str]) -> Accumulator:
        """Return the weight of each mixed update, ``float64 [S]``.

        Args:
            gram: Their inner products, ``float64 [S, S]``.
            sites: Whose they are.
        """


def gram_of(vectors: Sequence[npt.NDArray[Any]]) -> Accumulator:
    """Return all inner products, ``float64 [S, S]``, of vectors ``[P]`` in memory or in mapped files; part by part."""
    gram = np.zeros((len(vectors), len(vectors)))
    for part in parts(vectors[0].size):
        for start in range(part.start, part.stop, _BLOCK):
            block = slice(start, min(start + _BLOCK, part.stop))
            values = np.stack([vector[block] for vector in vectors]).astype(np.float64)
            gram += values @ values.T
        for vector in vectors:
            give_back(vector[part])
    return gram


def squared_distances(gram: Accumulator) -> Accumulator:
    """Return ``||x_i - x_j||^2`` for all pairs, ``float64 [S, S]``."""
    squares = np.diag(gram)
    distances: Accumulator = np.maximum(squares[:, None] + squares[None, :] - 2.0 * gram, 0.0)
    return distances


def nearest_neighbours(gram: Accumulator, count: int) -> Accumulator:
    """Return the matrix of NNM, ``float64 [S, S]``: row ``i`` is the mean of the ``count`` updates nearest to ``i``.

    An update is its own nearest; of equally near ones the first sites count.
    """
    distances = squared_distances(gram)
    np.fill_diagonal(distances, -1.0)
    nearest = np.argsort(distances, axis=1, kind="stable")[:, :count]
    mixing = np.zeros_like(gram)
    np.put_along_axis(mixing, nearest, 1.0 / count, axis=1)
    return mixing
