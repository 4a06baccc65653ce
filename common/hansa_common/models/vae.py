"""Variational autoencoder: it learns to reconstruct its input, and what it reconstructs badly is unusual.

Kingma and Welling, "Auto-Encoding Variational Bayes", ICLR 2014, with the weight beta of Higgins et al., "beta-VAE",
ICLR 2017. Dense, or for images convolutional.
"""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from hansa_common.models.registry import ARCHITECTURES, Architecture, Contract
from hansa_common.settings import Strict

if TYPE_CHECKING:
    from torch import nn

Width = Annotated[int, Field(ge=1, le=16_384)]
_REDUCTION = 4  # two convolutions with stride 2


class VAEOptions(Strict):
    """Options of the variational autoencoder."""

    encoder: Literal["dense", "convolutional"] = "dense"
    """``convolutional``: two convolutions 4x4 with stride 2 each way; for images of 4n x 4m pixels."""
    hidden: Annotated[tuple[Width, ...], Field(min_length=1, max_length=16)] = (128,)
    """Widths of the dense encoder's layers, and backwards of the decoder's."""
    filters: tuple[Width, Width] = (32, 64)
    """Channels of the convolutional encoder, and backwards of the decoder's."""
    latent: Width = 16
    """Dimensions of the latent variable."""
    beta: Annotated[float, Field(ge=0.0, le=1e6)] = 1.0
    """Weight of the Kullback-Leibler divergence against the reconstruction."""
    likelihood: Literal["gaussian", "bernoulli"] = "gaussian"
    """``gaussian``: half the squared error; ``bernoulli``: cross-entropy, for values in 0 to 1."""


def check(options: VAEOptions, contract: Contract) -> None:
    """Refuse what the convolutions cannot halve twice, and values that are no probabilities."""
    if options.encoder == "convolutional":
        if contract.kind != "image":
            raise ValueError(f"encoder: 'convolutional' is for images; data.kind is '{contract.kind}'.")
        _channels, height, width = contract.feature_shape
        if height % _REDUCTION or width % _REDUCTION:
            raise ValueError(f"encoder: 'convolutional' is for images of 4n x 4m pixels, not {height}x{width}.")
    if options.likelihood == "bernoulli" and not _is_in_unit_range(contract):
        raise ValueError("likelihood: 'bernoulli' is for values in 0 to 1: set data.minimum = 0 and data.maximum = 1.")


def _is_in_unit_range(contract: Contract) -> bool:
    if contract.kind == "image":
        return True
    if contract.kind == "table":
        return False
    return (
        contract.minimum is not None
        and contract.minimum >= 0
        and contract.maximum is not None
        and contract.maximum <= 1
    )


def _unsuited(options: VAEOptions) -> str:
    del options
    return "its loss draws a latent variable and is not the plain loss that private training clips"


def build(options: VAEOptions, contract: Contract) -> "nn.Module":
    """Return the network: ``float32 [N, ...]`` to reconstructions of the same shape; see ``Autoencoder``."""
    from hansa_common.models.networks import autoencoder

    shape = contract.feature_shape
    encoder, decoder = (
        autoencoder.convolutions(shape, options.filters, options.latent)
        if options.encoder == "convolutional"
        else autoencoder.dense_layers(shape, options.hidden, options.latent)
    )
    return autoencoder.Autoencoder(
        encoder=encoder, decoder=decoder, beta=options.beta, is_bernoulli=options.likelihood == "bernoulli"
    )


ARCHITECTURES.register("vae")(
    Architecture(
        options=VAEOptions,
        accepts=frozenset({"image", "array", "table"}),
        build=build,
        check=check,
        learns=frozenset({"reconstruction"}),
        unsuited_to_privacy=_unsuited,
    )
)
