"""A site's splits as tensors on its device, taken there once.

Shapes: ``N`` examples, ``H`` height, ``W`` width, ``C`` channels, ``F`` features, ``K`` classes.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from hansa_client.data.source import Dataset, Indices
from hansa_common.contract import NumberTarget, SurvivalTarget
from hansa_common.models.registry import Contract

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Examples:
    """One split.

    Attributes:
        features: Images ``uint8 [N, H, W, C]``, a quarter of the memory of what the model gets; otherwise ``float32``.
        labels: ``int64 [N]``; for numbers ``float32 [N]``, in scales of the contract's target; for times
            ``float32 [N, 2]``: the time, and 1 where the event was seen.
    """

    features: torch.Tensor = field(repr=False)
    labels: torch.Tensor = field(repr=False)

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self, size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield features and labels in order, ``size`` at a time, without copying; the last batch may be smaller."""
        return zip(torch.split(self.features, size), torch.split(self.labels, size), strict=True)

    def take(self, order: torch.Tensor) -> "Examples":
        """Return a copy of the examples at these positions, in this order."""
        order = order.to(self.labels.device)
        return Examples(features=self.features.index_select(0, order), labels=self.labels.index_select(0, order))


def model_input(features: torch.Tensor) -> torch.Tensor:
    """Return what the model gets: images as ``float32 [N, C, H, W]`` in 0..1, channels last in memory."""
    if features.dtype == torch.uint8:
        return (features / 255).permute(0, 3, 1, 2)
    return features


@dataclass(frozen=True, slots=True, kw_only=True)
class Standardisation:
    """Mean and standard deviation of a table's columns, or along an array's last axis: ``float64 [F]`` each."""

    mean: Floats
    deviation: Floats

    @classmethod
    def of(cls, features: npt.NDArray[np.generic]) -> "Standardisation":
        """Measure the columns of ``[N, ..., F]``; a constant column gets the deviation 1."""
        values = features.reshape(-1, features.shape[-1]).astype(np.float64)
        # Rounding can leave a constant column a deviation of 1e-17.
        constant = values.max(axis=0) == values.min(axis=0)
        return cls(mean=values.mean(axis=0), deviation=np.where(constant, 1.0, values.std(axis=0)))

    def apply(self, features: npt.NDArray[np.generic]) -> npt.NDArray[np.float32]:
        """Return ``(features - mean) / deviation``."""
        standardised: Floats = (features.astype(np.float64) - self.mean) / self.deviation
        return standardised.astype(np.float32)


class Loader:
    """Brings splits of a data set to the device, standardised as the contract asks for.

    Args:
        contract: The study's data contract.
        dataset: The site's data, which fulfils it.
        train: The training split, which alone decides mean and deviation.
        device: Where the tensors go.
    """

    def __init__(self, contract: Contract, dataset: Dataset, train: Indices, device: torch.device) -> None:
        self._contract = contract
        self._dataset = dataset
        self._device = device
        by_site = contract.kind != "image" and contract.standardise == "site"
        self._standardisation = Standardisation.of(dataset.features[train]) if by_site else None

    def load(self, indices: Indices) -> Examples:
        """Return the examples at these positions."""
        features: npt.NDArray[np.generic] = self._dataset.features[indices]
        if self._standardisation is not None:
            features = self._standardisation.apply(features)
        return Examples(
            features=torch.from_numpy(np.ascontiguousarray(features)).to(self._device),
            labels=torch.from_numpy(self._learned(indices)).to(self._device),
        )

    def _learned(self, indices: Indices) -> npt.NDArray[np.generic]:
        labels, targets = self._dataset.labels[indices], self._dataset.targets
        match self._contract.target:
            case NumberTarget() as number if targets is not None:
                return (targets[indices] / number.scale).astype(np.float32)
            case SurvivalTarget() if targets is not None:
                return np.stack((targets[indices], labels.astype(np.float32)), axis=1)
        return labels


def class_weights(
    wanted: Literal["none", "balanced"] | tuple[float, ...], labels: npt.NDArray[np.int64], classes: int
) -> npt.NDArray[np.float32] | None:
    """Return the loss's weight of each class, ``float32 [K]``, or ``None`` where all weigh the same.

    ``balanced`` is ``N / (K * count)`` over these labels (King and Zeng, "Logistic Regression in Rare Events Data",
    2001); a class that does not occur gets 0, which nothing is ever multiplied with.
    """
    if wanted == "none":
        return None
    if wanted == "balanced":
        counts = np.bincount(labels, minlength=classes)
        balanced = len(labels) / (classes * np.maximum(counts, 1))
        return np.where(counts > 0, balanced, 0.0).astype(np.float32)
    return np.asarray(wanted, dtype=np.float32)
