"""Reconstruction by optimisation: examples are sought whose gradient points where the update does.

* Zhu, Liu, Han, "Deep Leakage from Gradients", NeurIPS 2019: match the gradient by descent on the inputs.
* Zhao, Mopuri, Bilen, "iDLG: Improved Deep Leakage from Gradients", 2020: the label can be read off the last bias.
* Geiping, Bauermeister, Droege, Moeller, "Inverting Gradients", NeurIPS 2020, equation 4: cosine distance plus total
  variation, minimised by Adam on the sign of the gradient; the learning rate falls by 10 after 3/8, 5/8 and 7/8.

Shapes: ``B`` examples, ``C`` channels, ``H`` height, ``W`` width, ``K`` classes, ``P`` parameters.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn import functional

from hansa_client.leaks.similarity import Floats
from hansa_client.training.flat_model import build_flat_model
from hansa_common.parameters import Vector
from hansa_common.plan import StudyPlan

_FALLS = (3 / 8, 5 / 8, 7 / 8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How long to try.

    Attributes:
        iterations: Of one attempt.
        attempts: From different random starts; the one whose gradient fits best counts.
        step: Learning rate at first, in the range of values 0..1.
        smoothness: Weight of the total variation.
    """

    iterations: int = 400
    attempts: int = 1
    step: float = 0.1
    smoothness: float = 1e-2


def read_labels(bias_gradient: Floats, batch: int) -> list[int]:
    """Return the labels of a batch from the gradient ``[K]`` of the last bias, of the mean cross-entropy.

    It is the mean of the predicted probabilities minus the share of each class; a fresh model predicts all alike.
    """
    left = np.full_like(bias_gradient, 1.0 / len(bias_gradient)) - bias_gradient
    labels = []
    for _ in range(batch):
        labels.append(int(left.argmax()))
        left[labels[-1]] -= 1.0 / batch
    return sorted(labels)


def invert(
    plan: StudyPlan,
    parameters: Vector,
    delta: Vector,
    *,
    batch: int,
    seed: int,
    effort: Effort = Effort(),
    tell: Callable[[float], None] = lambda _share: None,
) -> tuple[Floats, float]:
    """Return images whose gradient at ``parameters`` points where an update does.

    Args:
        plan: The study, of images.
        parameters: ``float32 [P]``, what the site started from.
        delta: ``float32 [P]``, its update after one step of gradient descent.
        batch: ``B``, how many images are in it.
        seed: Of the random starts.
        effort: How long to try.
        tell: Called with the share that is done.

    Returns:
        ``float64 [B, C * H * W]`` in 0..1, and the cosine distance that is left.
    """
    model = build_flat_model(plan, seed, torch.device("cpu"))
    model.load(parameters)
    model.module.eval()
    weights = [tensor for tensor in model.module.parameters() if tensor.requires_grad]
    count = sum(tensor.numel() for tensor in weights)
    target = -torch.from_numpy(delta[:count].astype(np.float32))
    target /= target.norm() + 1e-30
    bias = target[-weights[-1].numel() :].double().numpy()
    # Only the direction of the update is known here: scale it so that the labels' share of the last bias adds up.
    scale = (1.0 - 1.0 / len(bias)) / max(-bias.min(), 1e-30) if batch == 1 else _scale(bias)
    labels = torch.tensor(read_labels(bias * scale, batch))
    generator = Generator().manual_seed(seed)

    def distance(images: Tensor) -> Tensor:
        loss = functional.cross_entropy(model.module(images), labels)
        gradients = torch.autograd.grad(loss, weights, create_graph=True)
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        cosine: Tensor = torch.dot(flat, target) / (flat.norm() + 1e-30)
        return 1.0 - cosine

    best, least = torch.zeros(0), float("inf")
    for attempt in range(effort.attempts):
        start = torch.rand((batch, *plan.data.feature_shape), generator=generator)
        images, left = _descend(start, distance, effort, tell, attempt)
        if left < least:
            best, least = images, left
    return best.reshape(batch, -1).double().numpy(), least


def _scale(bias: Floats) -> float:
    """Return a factor for the last bias's gradient that puts absent classes at one K-th, as a fresh model has them."""
    highest = float(bias.max())
    return 1.0 / len(bias) / highest if highest > 0 else 1.0


def _descend(
    start: Tensor,
    distance: Callable[[Tensor], Tensor],
    effort: Effort,
    tell: Callable[[float], None],
    attempt: int,
) -> tuple[Tensor, float]:
    images = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([images], lr=effort.step)
    falls = [int(share * effort.iterations) for share in _FALLS]
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, falls)
    left = float("inf")
    for iteration in range(effort.iterations):
        optimizer.zero_grad()
        mismatch = distance(images)
        (images.grad,) = torch.autograd.grad(mismatch + effort.smoothness * _total_variation(images), images)
        images.grad.sign_()
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            images.clamp_(0.0, 1.0)
        left = float(mismatch.detach())
        tell((attempt + (iteration + 1) / effort.iterations) / effort.attempts)
    return images.detach(), left


def _total_variation(images: Tensor) -> Tensor:
    """Return the mean absolute difference of neighbouring pixels."""
    down = (images[..., 1:, :] - images[..., :-1, :]).abs().mean()
    right = (images[..., :, 1:] - images[..., :, :-1]).abs().mean()
    return down + right
