"""Each site's own data -> training, validation and test split; seeded.

Shapes: ``N`` examples, ``K`` classes.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from hansa_client.data.persons import unit_column
from hansa_client.data.source import Dataset, Indices
from hansa_client.data.text_columns import text_column
from hansa_common.errors import ContractViolation
from hansa_common.plan import EvaluationPlan, StudyPlan
from hansa_common.seeds import derive_seed

Labels = npt.NDArray[np.int64]

_NAMES = ("train", "validation", "test")


@dataclass(frozen=True, slots=True, kw_only=True)
class Splits:
    """Positions of examples, ascending; no example is in two splits, and each is in one, but for known anomalies."""

    train: Indices = field(repr=False)
    validation: Indices = field(repr=False)
    test: Indices = field(repr=False)


def split_site(plan: StudyPlan, dataset: Dataset, own: Indices, seed: int) -> Splits:
    """Split a site's examples as its plan asks for; returns positions in the data set.

    Args:
        plan: The study.
        dataset: Where the examples are.
        own: Positions of the site's examples, ascending.
        seed: Same seed, same splits.

    Raises:
        ContractViolation: There are too few examples, or the data do not say whose a row is.
    """
    privacy = plan.privacy.differential
    if privacy is not None and privacy.kind == "example":
        return split_persons(dataset, privacy.unit, own, plan.evaluation, seed)
    splits = _split(plan, dataset, own, seed)
    if plan.data.target is None or plan.data.target.kind != "reconstruction":
        return splits
    train = splits.train[
        dataset.labels[splits.train] == 0
    ]  # what is unusual must not be learned; no other split has it
    if not len(train):
        raise ContractViolation(
            "All examples for training are anomalies; what is usual is learned from normal ones.",
            advice="Check data.target.normal and data.target.anomalous in the plan against the data.",
        )
    return replace(splits, train=train)


def _split(plan: StudyPlan, dataset: Dataset, own: Indices, seed: int) -> Splits:
    """Split by the column that says so, by groups, or stratified."""
    if plan.evaluation.column is not None:
        return split_by_column(dataset, plan.evaluation.column, own)
    if plan.evaluation.group is not None:
        # one seed for all sites: a patient whom two of them know is in the same split at both
        return split_groups(dataset, plan.evaluation.group, own, plan.evaluation, derive_seed(plan.seed, "groups"))
    splits = split(dataset.labels[own], plan.evaluation, seed)
    return Splits(train=own[splits.train], validation=own[splits.validation], test=own[splits.test])


def split_persons(dataset: Dataset, unit: str | None, own: Indices, evaluation: EvaluationPlan, seed: int) -> Splits:
    """Split so that a person's split depends on nobody else: what differential privacy takes for granted.

    In a stratified split one person more would move others from one split to the next, and their gradients with them.
    Here a hash of the person's name, or of the row where each is a person, decides by the plan's shares: all of a
    person's rows are in one split, and the sizes are only about the shares.

    Args:
        dataset: Where the examples are.
        unit: The column that says whose a row is; ``None``: each row is a person.
        own: Positions of the site's examples, ascending.
        evaluation: The shares.
        seed: Same seed, same splits.

    Returns:
        Positions in the data set; a split may be empty.

    Raises:
        ContractViolation: The data do not say whose a row is.
    """
    if unit is None:
        names = [dataset.features[row].tobytes() + dataset.labels[row].tobytes() for row in own]
    else:
        names = [str(name).encode() for name in unit_column(dataset, unit)[own]]
    places = _places(names, seed)
    test = places < evaluation.test
    validation = ~test & (places < evaluation.test + evaluation.validation)
    return Splits(train=own[~test & ~validation], validation=own[validation], test=own[test])


def split_by_column(dataset: Dataset, column: str, own: Indices) -> Splits:
    """Take the split that the data bring: each row says ``train``, ``validation`` or ``test``.

    Args:
        dataset: Where the examples are.
        column: Which says so.
        own: Positions of the site's examples, ascending.

    Returns:
        Positions in the data set; validation may be empty.

    Raises:
        ContractViolation: The data have no such column, a row says something else, or none is for training or test.
    """
    said = text_column(dataset, column, key="evaluation.column", says="which split each row is in")[own]
    found = {name: own[said == name] for name in _NAMES}
    origin = dataset.origin or "The data"
    other = np.flatnonzero(~np.isin(said, _NAMES))
    if other.size:
        raise ContractViolation(
            f"{origin}: the column '{column}' (evaluation.column) says '{said[other[0]]}' in example "
            f"{own[other[0]] + 1} and something else than {', '.join(_NAMES)} in {other.size} of {len(own)} rows.",
            advice="Write one of the three in each row.",
        )
    for name in ("train", "test"):
        if not found[name].size:
            raise ContractViolation(
                f"{origin}: no row says '{name}' in the column '{column}' (evaluation.column), of {len(own)}.",
                advice="Training and test need at least one example each.",
            )
    return Splits(**found)


def split_groups(dataset: Dataset, group: str, own: Indices, evaluation: EvaluationPlan, seed: int) -> Splits:
    """Split so that all examples of one group, a patient or an engine, are in one split.

    A hash of the group's name decides by the plan's shares, so sizes are only about the shares, and a group that two
    sites have is in the same split at both. Only where that leaves no group to test, or none to train, the one whose
    hash is nearest moves.

    Args:
        dataset: Where the examples are.
        group: The column that names the group.
        own: Positions of the site's examples, ascending.
        evaluation: The shares.
        seed: Same seed, same splits.

    Returns:
        Positions in the data set; validation may be empty.

    Raises:
        ContractViolation: The data do not say which group each row is in, or there are fewer than two.
    """
    values = text_column(dataset, group, key="evaluation.group", says="what each row belongs to")[own]
    names, members = np.unique(values, return_inverse=True)
    if len(names) < 2:  # noqa: PLR2004 one to train, one to test
        raise ContractViolation(
            f"{dataset.origin or 'The data'}: the column '{group}' (evaluation.group) says the same in all rows of "
            "the site; what a row belongs to must differ, for training and test need at least one each.",
            advice="Use more data, or ask for a plan that names another column.",
        )
    places = _places([str(name).encode() for name in names], seed)
    test = places < evaluation.test
    if not test.any():
        test[places.argmin()] = True
    validation = ~test & (places < evaluation.test + evaluation.validation)
    if (test | validation).all():
        last = int(places.argmax())
        test[last] = validation[last] = False
    return Splits(
        train=own[~(test | validation)[members]], validation=own[validation[members]], test=own[test[members]]
    )


def _places(names: Sequence[bytes], seed: int) -> npt.NDArray[np.float64]:
    """Return where in 0 to 1 a hash puts each name, ``float64 [N]``."""
    key = seed.to_bytes(16, "big")
    hashes = [hashlib.blake2b(name, key=key, digest_size=8, person=b"hansa split").digest() for name in names]
    return np.frombuffer(b"".join(hashes), dtype=">u8").astype(np.float64) * 2.0**-64


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


def draw_units(values: npt.NDArray[np.str_], size: int, rng: np.random.Generator) -> tuple[Indices, Indices]:
    """Draw whole units until they have ``size`` examples, and return those and what is left, positions ascending.

    Args:
        values: Which unit each example is of, ``[N]``.
        size: At least 1; at least one unit is left.
        rng: Its state decides which units.
    """
    names, members = np.unique(values, return_inverse=True)
    order = rng.permutation(len(names))
    needed = int(np.searchsorted(np.cumsum(np.bincount(members)[order]), size)) + 1
    is_drawn = np.isin(members, order[: min(needed, len(names) - 1)])
    return np.flatnonzero(is_drawn), np.flatnonzero(~is_drawn)


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
