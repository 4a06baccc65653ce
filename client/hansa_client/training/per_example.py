"""The gradient of each example of a batch, by Opacus; and which models have one.

All of the ways below are exact. On one busy core, for 32 images and the shared CNN, in times of an ordinary step:
Opacus' hooks 1.6, ``torch.func.vmap`` 1.2 to 1.8, ghost clipping 1.9 to 2.0, Opacus' functorch mode 2.1 to 2.3.

Importing Opacus takes 2 s, so only private training imports this module.

Shapes: ``B`` examples.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import torch
from opacus.grad_sample import GradSampleModule
from opacus.validators import ModuleValidator
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from hansa_common.errors import TrainingError

_ALIKE: Final = 1e-3  # largest relative difference of an output that is due to rounding
_REPLACEMENTS: Final = (
    (_BatchNorm, "GroupNorm"),
    (nn.LSTM, "opacus.layers.DPLSTM"),
    (nn.GRU, "opacus.layers.DPGRU"),
    (nn.RNN, "opacus.layers.DPRNN"),
    (nn.MultiheadAttention, "opacus.layers.DPMultiheadAttention"),
)


class _GradSampleModule(GradSampleModule):  # type: ignore[misc]  # Opacus has no types
    """Opacus' hooks, on activations as its convolutions expect them.

    Opacus 1.6 computes where a window lies in memory as if images were channels first, whatever their strides say, and
    gives wrong gradients for images that are channels last.
    """

    def capture_activations_hook(self, module: nn.Module, forward_input: list[Tensor], _output: Tensor) -> None:
        inputs = [tensor.contiguous() for tensor in forward_input]
        super().capture_activations_hook(module, inputs, _output)


@contextmanager
def example_gradients(module: nn.Module) -> Iterator[Callable[[Tensor], list[Tensor]]]:
    """Give a function that turns a sum of losses into each trainable parameter's gradients ``[B, *shape]``.

    The module is left as it was: others of this process train it without.
    """
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    hooked = _GradSampleModule(module, loss_reduction="sum")

    def differentiate(losses: Tensor) -> list[Tensor]:
        with warnings.catch_warnings():
            # PyTorch says that no gradient of the images is asked for.
            warnings.filterwarnings("ignore", message="Full backward hook is firing")
            losses.backward()  # type: ignore[no-untyped-call]
        found = [getattr(parameter, "grad_sample", None) for parameter in parameters]
        hooked.set_grad_sample_to_none()
        gradients = [gradient for gradient in found if isinstance(gradient, Tensor)]
        if len(gradients) != len(parameters):
            raise TrainingError(
                "The model has trainable parameters that its output does not depend on: they have no gradient.",
                advice="Freeze or remove them.",
            )
        return gradients

    try:
        yield differentiate
    finally:
        hooked.cleanup()
        for layer in module.modules():  # what a step that failed left behind
            layer.__dict__.pop("activations", None)
            layer.__dict__.pop("max_batch_len", None)


def refuse_unsuitable(module: nn.Module, inputs: Tensor) -> None:
    """Refuse a model in which examples of a batch change each other's outputs, or that has no gradient of each.

    Args:
        module: The plan's model.
        inputs: Any two examples ``[2, ...]`` of the contract's shape, not from the data.

    Raises:
        TrainingError: The layer's name, why, and what to use instead.
    """
    for name, layer in module.named_modules():
        validate = ModuleValidator.VALIDATORS.get(type(layer), lambda _layer: [])
        instead = next((other for kind, other in _REPLACEMENTS if isinstance(layer, kind)), "")
        if instead or validate(layer):
            advice = f"Use {instead} instead." if instead else "Do not let it track statistics of its inputs."
            raise TrainingError(
                f"The model's layer '{name}' is {type(layer).__name__}, which differential privacy cannot use: it has "
                "no gradient of one example alone, or keeps statistics of the data without noise.",
                advice=advice,
            )
    module.eval()  # no dropout
    with torch.inference_mode():
        alone, together = module(inputs[:1]), module(inputs)[:1]
    if not torch.allclose(alone, together, rtol=_ALIKE, atol=_ALIKE * float(alone.abs().max())):
        raise TrainingError(
            "The model's output for one example depends on the others of its batch, so nobody has a gradient alone.",
            advice="Take a model whose layers treat each example alone.",
        )
