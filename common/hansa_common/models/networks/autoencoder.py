"""The variational autoencoder and its two kinds of encoder and decoder.

Shapes: ``N`` examples, ``Z`` latent dimensions.
"""

import itertools
import math
from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from hansa_common.models.initialisation import glorot

_LOG_VARIANCE = 20.0  # largest absolute log variance: exp(20) is 5e8, and float32 holds its products


class Autoencoder(nn.Module):
    """q(z|x) is normal with diagonal covariance, p(z) standard normal.

    Args:
        encoder: Inputs to ``[N, 2 Z]``: means, then log variances.
        decoder: ``[N, Z]`` to means of the inputs' shape, or logits with ``is_bernoulli``.
        beta: Weight of the divergence.
        is_bernoulli: p(x|z) is Bernoulli, else normal with variance 1.
    """

    def __init__(self, *, encoder: nn.Module, decoder: nn.Module, beta: float, is_bernoulli: bool) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        self._beta, self._is_bernoulli = beta, is_bernoulli
        glorot(self)

    def encode(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log variance of q(z|x), ``[N, Z]`` each."""
        mean, log_variance = self.encoder(inputs).chunk(2, dim=1)
        return mean, log_variance.clamp(-_LOG_VARIANCE, _LOG_VARIANCE)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the reconstruction from the mean of q(z|x), of the inputs' shape; nothing is drawn."""
        decoded: Tensor = self.decoder(self.encode(inputs)[0])
        return decoded.sigmoid() if self._is_bernoulli else decoded

    def loss(self, inputs: Tensor) -> Tensor:
        """Return the batch's mean of ``-log p(x|z) + beta * KL(q(z|x) || p(z))``, with one draw of z each.

        Kingma and Welling, equation 10, without the constant of the normal density. The draw is from torch's global
        generator.
        """
        mean, log_variance = self.encode(inputs)
        latent = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
        divergence = self.divergence(mean, log_variance)
        return (self.reconstruction_loss(self.decoder(latent), inputs) + self._beta * divergence).mean()

    @staticmethod
    def divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
        """Return each example's KL divergence from the standard normal, ``[N]`` (Kingma and Welling, appendix B)."""
        return -0.5 * (1.0 + log_variance - mean.square() - log_variance.exp()).sum(1)

    def reconstruction_loss(self, decoded: Tensor, inputs: Tensor) -> Tensor:
        """Return each example's ``-log p(x|z)``, ``[N]``, summed over its values."""
        if self._is_bernoulli:
            losses = functional.binary_cross_entropy_with_logits(decoded.float(), inputs.float(), reduction="none")
        else:
            losses = 0.5 * (decoded.float() - inputs.float()).square()
        return losses.flatten(1).sum(1)

    def score(self, inputs: Tensor) -> Tensor:
        """Return each example's anomaly score, ``[N]``: the mean squared error of its reconstruction."""
        reconstructed: Tensor = self(inputs)
        return (reconstructed - inputs).square().flatten(1).mean(1)


def dense_layers(shape: Sequence[int], hidden: Sequence[int], latent: int) -> tuple[nn.Module, nn.Module]:
    """Return encoder and decoder of dense layers with ReLU between them."""
    values = math.prod(shape)
    encoder: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    encoder.update(_chain([values, *hidden, 2 * latent]))
    decoder = _chain([latent, *reversed(hidden), values])
    decoder["unflatten"] = nn.Unflatten(1, tuple(shape))
    return nn.Sequential(encoder), nn.Sequential(decoder)


def _chain(widths: Sequence[int]) -> OrderedDict[str, nn.Module]:
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for number, (inputs, outputs) in enumerate(itertools.pairwise(widths), start=1):
        if number > 1:
            layers[f"relu{number - 1}"] = nn.ReLU()
        layers[f"dense{number}"] = nn.Linear(inputs, outputs)
    return layers


def convolutions(shape: Sequence[int], filters: tuple[int, int], latent: int) -> tuple[nn.Module, nn.Module]:
    """Return encoder and decoder for images ``[C, H, W]``: two convolutions 4x4 with stride 2 each, ReLU between."""
    channels, height, width = shape
    first, second = filters
    small = (second, height // 4, width // 4)
    encoder = OrderedDict[str, nn.Module](
        conv1=nn.Conv2d(channels, first, 4, stride=2, padding=1),
        relu1=nn.ReLU(),
        conv2=nn.Conv2d(first, second, 4, stride=2, padding=1),
        relu2=nn.ReLU(),
        flatten=nn.Flatten(),
        dense=nn.Linear(math.prod(small), 2 * latent),
    )
    decoder = OrderedDict[str, nn.Module](
        dense=nn.Linear(latent, math.prod(small)),
        relu1=nn.ReLU(),
        unflatten=nn.Unflatten(1, small),
        conv1=nn.ConvTranspose2d(second, first, 4, stride=2, padding=1),
        relu2=nn.ReLU(),
        conv2=nn.ConvTranspose2d(first, channels, 4, stride=2, padding=1),
    )
    return nn.Sequential(encoder), nn.Sequential(decoder)
