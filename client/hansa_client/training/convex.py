"""Loss, gradient and Hessian of logistic and Cox regression over a site's examples, in float64.

Shapes: ``N`` examples, ``F`` features, ``O`` outputs of the linear layer, ``P`` parameters, ``D`` different times.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from hansa_common.curvature import Curvature

Floats = npt.NDArray[np.float64]
_BATCH: Final = 4_096  # examples; their weighted copies stay small


def logistic_curvature(parameters: Floats, features: Floats, labels: npt.NDArray[np.int64]) -> Curvature:
    """Return the summed cross-entropy around a model, as softmax over ``O`` logits, or one logit beside a 0.

    Bishop, "Pattern Recognition and Machine Learning" (2006), equations 4.96, 4.97 and 4.110.

    Args:
        parameters: ``[P]``: weights ``[O, F]``, then biases ``[O]``.
        features: ``[N, F]``.
        labels: ``[N]``; with one logit, 0 and 1.
    """
    count = features.shape[1]
    outputs = parameters.size // (count + 1)
    layer = np.column_stack([parameters[: outputs * count].reshape(outputs, count), parameters[outputs * count :]])
    loss, gradient = 0.0, np.zeros((outputs, count + 1))
    hessian = np.zeros((outputs, count + 1, outputs, count + 1))
    for start in range(0, len(features), _BATCH):
        part = features[start : start + _BATCH]
        inputs = np.column_stack([part, np.ones(len(part))])
        logits = inputs @ layer.T
        if outputs == 1:
            logits = np.column_stack([np.zeros(len(part)), logits])
        at = (np.arange(len(part)), labels[start : start + _BATCH])
        normaliser = np.logaddexp.reduce(logits, axis=1)
        loss += float((normaliser - logits[at]).sum())
        chances = np.exp(logits - normaliser[:, None])
        errors = chances.copy()
        errors[at] -= 1.0
        chances, errors = chances[:, -outputs:], errors[:, -outputs:]
        gradient += errors.T @ inputs
        for one in range(outputs):
            for other in range(one, outputs):
                weights = chances[:, one] * ((one == other) - chances[:, other])
                hessian[one, :, other, :] += inputs.T @ (weights[:, None] * inputs)
    for one in range(outputs):
        for other in range(one):
            hessian[one, :, other, :] = hessian[other, :, one, :]  # each block is symmetric itself
    # from a row for each output, its bias last, to all weights before all biases
    places = np.arange(outputs * (count + 1)).reshape(outputs, count + 1)
    order = np.concatenate([places[:, :count].ravel(), places[:, count]])
    flat = hessian.reshape(order.size, order.size)
    return Curvature(loss=loss, gradient=gradient.ravel()[order], hessian=flat[np.ix_(order, order)])


def cox_curvature(
    parameters: Floats, features: Floats, times: npt.NDArray[np.floating], events: npt.NDArray[np.bool_]
) -> Curvature:
    """Return the negative log partial likelihood around a model, summed over the events.

    Cox 1972, with Breslow's way for events at one time, as ``hansa_client.training.losses.cox_losses`` has it.
    Everything is relative to the sum over those at risk, so that no hazard is too large or too small.

    Args:
        parameters: ``[F]``.
        features: ``[N, F]``.
        times: ``[N]``.
        events: ``[N]``, whether the event was seen.
    """
    order = np.argsort(-times, kind="stable")
    ranked, seen = features[order], events[order]
    hazards = ranked @ parameters
    _, starts, groups = np.unique(-times[order], return_index=True, return_inverse=True)
    deaths = np.add.reduceat(seen.astype(np.float64), starts)
    ends = np.append(starts[1:], len(ranked))
    at_risk = np.logaddexp.accumulate(hazards)[ends - 1]  # [D], logarithms
    means = np.zeros((len(starts), ranked.shape[1]))  # [D, F], of the features of those at risk, by their hazards
    mean, before = np.zeros(ranked.shape[1]), -np.inf
    for group, (start, end) in enumerate(zip(starts, ends, strict=True)):
        joined = np.exp(hazards[start:end] - at_risk[group]) @ ranked[start:end]
        means[group] = mean = mean * np.exp(before - at_risk[group]) + joined
        before = at_risk[group]
    with np.errstate(divide="ignore"):
        terms = np.log(deaths) - at_risk  # an event at a time counts for all who were watched then
    later = np.logaddexp.accumulate(terms[::-1])[::-1]
    weights = np.exp(hazards + later[groups])
    return Curvature(
        loss=float(deaths @ at_risk - hazards[seen].sum()),
        gradient=deaths @ means - ranked[seen].sum(axis=0),
        hessian=ranked.T @ (weights[:, None] * ranked) - means.T @ (deaths[:, None] * means),
    )
