"""Random changes to training examples, drawn anew for each batch.

All draws come from a generator on the CPU, whatever device the batch is on, so that one seed means the same changes
everywhere. Shapes: ``N`` examples of a batch, ``H`` height, ``W`` width, ``C`` channels.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn import functional

from hansa_common.training_plan import AugmentationPlan


def augment_images(images: Tensor, plan: AugmentationPlan, generator: Generator) -> Tensor:
    """Apply the changes that move pixels, flip and crop, to ``uint8 [N, H, W, C]``."""
    if plan.flip:
        images = flip(images, generator)
    if plan.crop:
        images = crop(images, plan.crop, generator)
    return images


def flip(images: Tensor, generator: Generator) -> Tensor:
    """Mirror each image ``[N, H, W, C]`` left and right with probability 1/2."""
    mirrored = torch.rand(len(images), generator=generator) < 0.5  # noqa: PLR2004  # a fair coin
    return torch.where(mirrored.to(images.device)[:, None, None, None], images.flip(2), images)


def crop(images: Tensor, padding: int, generator: Generator) -> Tensor:
    """Pad each image ``[N, H, W, C]`` with zeros on all sides and cut ``H x W`` out at a random place.

    He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, section 4.2.
    """
    count, height, width, _ = images.shape
    padded = functional.pad(images, (0, 0, padding, padding, padding, padding))
    corners = torch.randint(2 * padding + 1, (2, count, 1), generator=generator)
    rows = (corners[0] + torch.arange(height)).to(images.device)
    columns = (corners[1] + torch.arange(width)).to(images.device)
    each = torch.arange(count, device=images.device)
    return padded[each[:, None, None], rows[:, :, None], columns[:, None, :]]


def add_noise(features: Tensor, deviation: float, generator: Generator) -> Tensor:
    """Add Gaussian noise of this standard deviation to each value; nothing is clamped to the range of the data."""
    noise = torch.randn(features.shape, generator=generator).to(features.device)
    return features.add(noise, alpha=deviation)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixed:
    """A batch after mixup: each example is ``share`` of itself and ``1 - share`` of its partner.

    Attributes:
        features: ``float32``, of the batch's shape.
        partners: ``int64 [N]``, the labels of the partners.
        share: Lambda, 0..1, one for the whole batch.
    """

    features: Tensor
    partners: Tensor
    share: float


def mixup(features: Tensor, labels: Tensor, alpha: float, generator: Generator) -> Mixed:
    """Blend each example with another one of the batch, by lambda drawn from Beta(alpha, alpha).

    Zhang et al., "mixup: Beyond Empirical Risk Minimization", ICLR 2018, equation 1; one lambda for a batch, as in the
    authors' code.
    """
    order = torch.randperm(len(labels), generator=generator).to(features.device)
    # PyTorch's Beta takes no generator of its own.
    draws = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
    share = float(draws.beta(alpha, alpha))
    return Mixed(features=torch.lerp(features[order], features, share), partners=labels[order], share=share)
