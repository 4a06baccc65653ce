"""Batch normalisation that nothing changes any more: an affine map from a file."""

from typing import TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def is_frozen(layer: nn.Module) -> TypeGuard[_BatchNorm]:
    """Tell whether this is batch normalisation with statistics whose scale and shift are not trained."""
    return (
        isinstance(layer, _BatchNorm)
        and layer.affine
        and layer.running_mean is not None
        and not any(parameter.requires_grad for parameter in layer.parameters())
    )


class FrozenNorm(nn.Module):
    """``(x - running_mean) / sqrt(running_var + eps) * weight + bias``, in training as in evaluation.

    The statistics of a frozen layer would otherwise move with each batch, and the common model with them.
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, layer: _BatchNorm) -> None:
        super().__init__()
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.register_buffer(name, getattr(layer, name).detach().clone())
        self._eps = layer.eps

    def forward(self, inputs: Tensor) -> Tensor:
        """Map ``[N, C, ...]`` channel by channel."""
        normalised: Tensor = torch.nn.functional.batch_norm(
            inputs, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self._eps
        )
        return normalised
