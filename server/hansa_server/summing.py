"""From what the sites sent to the one contribution that a strategy steps with: masked sums, and the server's noise."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hansa_common.parameters import Vector, parts
from hansa_common.plan import StudyPlan
from hansa_common.privacy import Keystream, ServerMechanism
from hansa_common.protection import counted_examples, server_gaussian, unit_of
from hansa_common.secagg import Terms
from hansa_server.masked import MaskedSum
from hansa_server.strategies import Contribution
from hansa_server.vectors import keep

_Part = Callable[[slice], npt.NDArray[np.float64]]
"""One part of the sum of the updates, in their units."""


def contribution_of(
    plan: StudyPlan, terms: Terms, total: MaskedSum, examples: Mapping[str, int], folder: Path
) -> Contribution:
    """Return a masked sum as one contribution: the weighted mean of the updates in it.

    Args:
        plan: The study.
        terms: Of its secure aggregation.
        total: What the round brought.
        examples: Each site's training examples, where they count.
        folder: Where a large vector lies.
    """
    size = total.vector.size
    unit = unit_of(plan, terms, size)
    signed: npt.NDArray[Any] = total.vector.view(f"<i{total.vector.itemsize}")
    counted = sum(counted_examples(plan.privacy, examples[site]) for site in total.survivors)

    def decoded(part: slice) -> npt.NDArray[np.float64]:
        return signed[part] * unit

    return _mean(decoded, size, counted=counted, noise=server_gaussian(plan, size), folder=folder)


def with_noise(plan: StudyPlan, updates: Sequence[Contribution], folder: Path) -> Sequence[Contribution]:
    """Return a round's updates, or, where the server adds noise, their noised mean as one contribution.

    Args:
        plan: The study.
        updates: Clipped, each ``float32 [P]``.
        folder: Where a large vector lies.
    """
    size = updates[0].delta.size
    noise = server_gaussian(plan, size)
    if noise is None:
        return updates

    def added(part: slice) -> npt.NDArray[np.float64]:
        total = np.zeros(part.stop - part.start)
        for update in updates:  # each is rounded to the grid, so that the sum is exact
            total += noise.steps(update.delta[part]) * noise.grid
        return total

    return [_mean(added, size, counted=len(updates), noise=noise, folder=folder)]


def _mean(part_of_sum: _Part, size: int, *, counted: int, noise: ServerMechanism | None, folder: Path) -> Contribution:
    """Divide a sum, with the noise that the server adds to it, by what is in it."""
    stream = Keystream() if noise is not None else None

    def pieces() -> Iterator[Vector]:
        for part in parts(size):
            total = part_of_sum(part)
            if noise is None or stream is None:
                yield (total / counted).astype(np.float32)
                continue
            steps = noise.steps(total)
            noise.add_noise(steps, stream)
            yield noise.mean(steps, sites=counted)

    return Contribution(site="", delta=keep(pieces(), size, folder), num_examples=counted, steps=0)
