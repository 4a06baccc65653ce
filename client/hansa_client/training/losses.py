"""Losses of what is learned beside classes, one for each example.

Shapes: ``N`` examples, ``F`` features.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from hansa_common.contract import NumberTarget, ReconstructionTarget, SurvivalTarget


def number_losses(target: NumberTarget, predictions: Tensor, numbers: Tensor) -> Tensor:
    """Return squared errors, or half of Huber's function as torch has it, ``[N]``; both ``[N]`` in scales."""
    if target.loss == "huber":
        return functional.huber_loss(predictions, numbers, reduction="none")
    return functional.mse_loss(predictions, numbers, reduction="none")


def cox_losses(hazards: Tensor, times: Tensor, events: Tensor) -> Tensor:
    """Return the negative log partial likelihood of each event among these people, ``[N]``; 0 where none was seen.

    Cox, Journal of the Royal Statistical Society B 1972; events at one time as Breslow (Biometrics 1974) has them: each
    is compared with all who were watched at that time.

    Args:
        hazards: ``[N]``, logarithms of the relative hazard.
        times: ``[N]``.
        events: ``[N]``, 1 where the event was seen, else 0.
    """
    order = torch.argsort(times, descending=True, stable=True)
    ranked, at = hazards[order], times[order]
    # of people with one time, the last in this order has all of them at risk
    last = torch.searchsorted(-at, -at, right=True) - 1
    at_risk = torch.logcumsumexp(ranked, dim=0)[last]
    losses = torch.zeros_like(hazards)
    losses[order] = (at_risk - ranked).clamp(min=0.0)
    return losses * events


def reconstruction_losses(outputs: Tensor, inputs: Tensor) -> Tensor:
    """Return the mean squared error of each example's features, ``[N]``."""
    return (outputs.reshape(len(inputs), -1) - inputs.reshape(len(inputs), -1)).square().mean(dim=1)


def batch_loss(
    target: NumberTarget | SurvivalTarget | ReconstructionTarget, module: nn.Module, inputs: Tensor, labels: Tensor
) -> Tensor:
    """Return the loss that is minimised on a batch: the mean over examples; of a survival target over the events.

    The partial likelihood is that of the batch, as FLamby trains Cox regression. A module that reconstructs may have a
    method ``loss(inputs)`` of its own that returns the batch's mean loss (a variational autoencoder adds the divergence
    of its code).

    Args:
        target: Of the plan's contract.
        module: The model.
        inputs: What it gets.
        labels: As ``Examples.labels``.
    """
    own = getattr(module, "loss", None)
    if isinstance(target, ReconstructionTarget):
        loss: Tensor = own(inputs).float() if own is not None else reconstruction_losses(module(inputs), inputs).mean()
        return loss
    outputs = module(inputs).float().reshape(-1)
    if isinstance(target, NumberTarget):
        return number_losses(target, outputs, labels).mean()
    times, events = labels.unbind(dim=1)
    return cox_losses(outputs, times, events).sum() / events.sum().clamp(min=1.0)
