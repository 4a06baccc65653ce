"""Newton's method at a site: no training, but loss, gradient and Hessian at the incoming model, summed in float64.

Wu, Jiang, Kim, Ohno-Machado: Grid Binary LOgistic REgression (GLORE): building shared models without sharing data.
JAMIA 2012; Lu et al.: WebDISCO: a web service for distributed Cox model learning without patient-level data sharing.
JAMIA 2015. The Cox model is stratified by site here: a person is compared with those of the same site only, so that
no time of an event leaves.
"""

import math

import numpy as np
import torch

from hansa_client.site_state import State
from hansa_client.training.algorithm import Algorithm, LocalRound
from hansa_client.training.convex import cox_curvature, logistic_curvature
from hansa_client.training.examples import model_input
from hansa_client.training.procedure import Trained
from hansa_common.curvature import Curvature, pack
from hansa_common.errors import TrainingError
from hansa_common.parameters import Vector


class Newton(Algorithm):
    """Sends means over the training split; a site keeps nothing."""

    def train(self, vector: Vector, state: State, *, round_number: int, seed: int) -> LocalRound:
        """Look at the loss around the incoming model.

        Raises:
            TrainingError: It is not finite there.
        """
        del state, seed
        found = self._curvature(vector)
        if not math.isfinite(found.loss):
            raise TrainingError(
                f"The loss of the incoming model is {found.loss} in round {round_number}.",
                advice="Scale the features, or set aggregation.ridge.",
            )
        examples = len(self._procedure.examples())
        trained = Trained(delta=np.zeros_like(vector), num_examples=examples, loss=found.loss, steps=1)
        return LocalRound(update=pack(found), trained=trained)

    def _curvature(self, vector: Vector) -> Curvature:
        examples = self._procedure.examples()
        inputs = model_input(examples.features).reshape(len(examples), -1)
        features = inputs.cpu().to(torch.float64).numpy()
        labels, parameters = examples.labels.cpu().numpy(), vector.astype(np.float64)
        if self._plan.model.name == "cox":
            found = cox_curvature(parameters, features, labels[:, 0], labels[:, 1] > 0)
        else:
            found = logistic_curvature(parameters, features, labels)
        return found.scaled(1.0 / len(examples))
