"""Each site's own data -> training, validation and test split; stratified, seeded.

Shapes: ``N`` examples, ``K`` classes.
"""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from hansa_client.data.source import Indices
from hansa_common.errors import ContractViolation
from hansa_common.plan import EvaluationPlan

Labels = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Splits:
    """Positions of examples, ascending; no example is in two splits, and each is in one."""

    train: Indices = field(repr=False)
    validation: Indices = field(repr=False)
    test: Indices = field(repr=False)


def split(labels: Labels, evaluation: EvaluationPlan, seed: int) -> Splits:
    """Split examples so that each class has its share of every split, as far as whole examples allow.

    A class keeps its last example in training while other classes can fill the other splits. Training and test get at
    least one example, validation too if the plan asks for it and there are three.

    Args:
        labels: ``int64 [N]``.
        evaluation: The shares.
        seed: Same seed, same splits.

    Raises:
        ContractViolation: There are fewer than two examples.
    """
    count = len(labels)
    if count < 2:  # noqa: PLR2004 one to train, one to test
        raise ContractViolation(
            f"The site has {count} example(s); training and test need at least one each.",
            advice="Use more data, or raise data.minimum_examples in the plan.",
        )
    tests = min(max(1, round(count * evaluation.test)), count - 1)
    validations = max(1, round(count * evaluation.validation)) if evaluation.validation else 0
    rng = np.random.Generator(np.random.Philox(seed))
    test, validation, train = draw(labels, (tests, min(validations, count - tests - 1)), rng)
    return Splits(train=train, validation=validation, test=test)


def draw(labels: Labels, sizes: tuple[int, ...], rng: np.random.Generator) -> tuple[Indices, ...]:
    """Draw stratified groups of exactly these sizes, and return them and what is left, positions ascending.

    Args:
        labels: ``int64 [N]``.
        sizes: Of the groups; their sum is at most N.
        rng: Its state decides which examples.
    """
    _, positions, counts = np.unique(labels, return_inverse=True, return_counts=True)
    order = rng.permutation(len(labels))
    queues = [order[positions[order] == number] for number in range(len(counts))]
    left = counts.astype(np.int64)
    groups = []
    for size in sizes:
        taken = apportion(size, counts, np.maximum(left - 1, 0), rng)
        taken += apportion(size - int(taken.sum()), left - taken, left - taken, rng)
        groups.append(np.sort(np.concatenate([queue[:n] for queue, n in zip(queues, taken, strict=True)])))
        queues = [queue[n:] for queue, n in zip(queues, taken, strict=True)]
        left -= taken
    return (*groups, np.sort(np.concatenate(queues)))


def apportion(
    total: int, weights: npt.NDArray[np.int64], capacity: npt.NDArray[np.int64], rng: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Divide ``total`` by weights into whole numbers (largest remainder, Hamilton 1792), none above its capacity.

    What does not fit into the capacities is left out; ties are broken by ``rng``.

    Returns:
        ``int64``, as many as there are weights.
    """
    if total <= 0 or not weights.any():
        return np.zeros(len(weights), dtype=np.int64)
    quotas = total * weights / weights.sum()
    shares: npt.NDArray[np.int64] = np.minimum(np.floor(quotas).astype(np.int64), capacity)
    shuffled = rng.permutation(len(weights))
    order = shuffled[np.argsort(-(quotas - np.floor(quotas))[shuffled], kind="stable")]
    while (missing := total - int(shares.sum())) > 0 and (open_ := order[(shares < capacity)[order]]).size:
        shares[open_[:missing]] += 1
    return shares
