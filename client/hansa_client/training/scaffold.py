"""SCAFFOLD at a site: control variates take the drift out of local training.

Karimireddy, Kale, Mohri, Reddi, Stich, Suresh: SCAFFOLD: Stochastic Controlled Averaging for Federated Learning. ICML
2020, algorithm 1 with option II. What travels is ``[x, c]`` down and ``[delta y, delta c]`` up, one vector of ``2 P``.
"""

import numpy as np

from hansa_client.site_state import State
from hansa_client.training.algorithm import Algorithm, LocalRound
from hansa_client.training.corrections import Drift
from hansa_common.parameters import Vector


class Scaffold(Algorithm):
    """Keeps the site's control variate ``c_i``; zero before its first round."""

    def whole(self, vector: Vector, state: State) -> Vector:
        """Return ``x``."""
        del state
        return vector[: self.spec.size]

    def train(self, vector: Vector, state: State, *, round_number: int, seed: int) -> LocalRound:
        """Do lines 7 to 14 of algorithm 1 at this site.

        Values that are not trained (running statistics) have no gradient: their control variates stay zero.
        """
        size, trained_size = self.spec.size, self._procedure.num_trainable
        x, c = vector[:size], vector[size:]
        control = state.get("control", np.zeros(size, np.float32))
        trained = self._procedure.train(
            x, round_number=round_number, seed=seed, correction=Drift(difference=c - control)
        )
        scale = trained.steps * self._plan.training.learning_rate
        following = np.zeros(size, np.float32)
        following[:trained_size] = (control - c - trained.delta / np.float32(scale))[:trained_size]
        return LocalRound(
            update=np.concatenate([trained.delta, following - control]),
            trained=trained,
            state={"control": following},
        )
