"""Multi-Krum: the mean of the updates that lie closest to most others.

Blanchard, El Mhamdi, Guerraoui, Stainer: Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent.
NeurIPS 2017, sections 4 and 5.
"""

from collections.abc import Sequence

import numpy as np

from hansa_common.parameters import Accumulator
from hansa_server.strategies.robust import HostileOptions, VectorRule, squared_distances
from hansa_server.strategies.strategy import STRATEGIES


@STRATEGIES.register("multi_krum")
class MultiKrum(VectorRule):
    """A site's score is the sum of squared distances to its ``S - f - 2`` nearest; the ``S - f`` lowest are averaged.

    It needs ``2 * f + 2 < S``.
    """

    options = HostileOptions
    spare = 2

    def weigh(self, gram: Accumulator, sites: Sequence[str]) -> Accumulator:
        """Choose the sites; those that are not chosen are in ``left_out``."""
        hostile = self.hostile_among(len(sites))
        distances = squared_distances(gram)
        np.fill_diagonal(distances, np.inf)
        scores = np.sort(distances, axis=1)[:, : len(sites) - hostile - 2].sum(axis=1)
        chosen = np.argsort(scores, kind="stable")[: len(sites) - hostile]
        weights = np.zeros(len(sites))
        weights[chosen] = 1.0 / len(chosen)
        self.left_out = tuple(site for site, weight in zip(sites, weights, strict=True) if not weight)
        return weights
