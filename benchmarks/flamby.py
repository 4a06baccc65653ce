"""FLamby's own start and order of batches, for runs of Hansa that must give its published figures to the digit.

The published script (du Terrail et al., "FLamby", NeurIPS 2022) seeds torch, starts a linear layer, makes an iterator
over each hospital's shuffled loader, seeds torch again and lets the hospitals train in turn; an epoch that a round has
not finished goes on in the next one. Drawn here by torch's loader and generator, as there.
"""

import csv
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Final
from unittest import mock

import numpy as np
import torch
from torch import Generator, Tensor
from torch.utils.data import DataLoader

from hansa_client.training.corrections import Correction
from hansa_client.training.procedure import Trained
from hansa_client.training.supervised import SupervisedTraining
from hansa_common.parameters import Vector

_BATCH: Final = 4
_SMALLEST: Final = 1e-9  # is added to a deviation


def normalise(source: Path, target: Path) -> list[int]:
    """Write patients with features as FLamby normalises them: by the hospital's training patients.

    Returns how many each hospital trains on, in FLamby's order.
    """
    with source.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    columns = [name for name in rows[0] if name not in ("disease", "hospital", "fold")]
    sizes = []
    for hospital in dict.fromkeys(row["hospital"] for row in rows):
        own = [row for row in rows if row["hospital"] == hospital]
        features = np.array([[row[name] for name in columns] for row in own], dtype=np.float32)
        train = features[[row["fold"] == "train" for row in own]]
        features = (features - train.mean(axis=0)) / (train.std(axis=0, ddof=1) + _SMALLEST)
        for row, values in zip(own, features, strict=True):
            row.update(zip(columns, map(repr, values.tolist()), strict=True))
        sizes.append(len(train))
    with target.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return sizes


class Protocol:
    """The published start and batches of one seed.

    Args:
        seed: Of the published run.
        sizes: Training examples of each site, in the published order of sites; all distinct.
        features: Of the linear layer.
        rounds: How many there are.
        steps: In a round.
    """

    def __init__(self, seed: int, *, sizes: Sequence[int], features: int, rounds: int, steps: int) -> None:
        torch.manual_seed(seed)
        layer = torch.nn.Linear(features, 1)
        self.initial: Vector = np.concatenate([layer.weight.detach().ravel(), layer.bias.detach()])
        loaders: list[DataLoader[int]] = [
            DataLoader(range(size), batch_size=_BATCH, shuffle=True)  # type: ignore[arg-type]  # has all that a Dataset needs
            for size in sizes
        ]
        iterators = [iter(loader) for loader in loaders]
        torch.manual_seed(seed)
        self.batches: dict[tuple[int, int], list[Tensor]] = {}
        for number in range(1, rounds + 1):
            for place, size in enumerate(sizes):
                drawn = self.batches[size, number] = []
                while len(drawn) < steps:
                    drawn += islice(iterators[place], steps - len(drawn))
                    if len(drawn) < steps:
                        iterators[place] = iter(loaders[place])

    def followed(self) -> "mock._patch[type[SupervisedTraining]]":
        """Return a context in which sites of this process start and draw as published."""
        protocol = self

        class Published(SupervisedTraining):
            def initial(self, seed: int) -> Vector:
                del seed
                return protocol.initial

            def train(
                self, parameters: Vector, *, round_number: int, seed: int, correction: Correction | None = None
            ) -> Trained:
                self._ahead = iter(protocol.batches[len(self.examples()), round_number])
                return super().train(parameters, round_number=round_number, seed=seed, correction=correction)

            def _batches(self, count: int, generator: Generator) -> Iterator[tuple[Tensor, Tensor]]:
                del generator
                for order in islice(self._ahead, count):
                    batch = self.examples().take(order)
                    yield batch.features, batch.labels

        return mock.patch("hansa_client.work.SupervisedTraining", Published)
