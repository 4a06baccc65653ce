"""One data set -> simulated sites: iid, label skew, quantity skew, or the institutions named in a column.

Label and quantity skew follow Li et al., "Federated Learning on Non-IID Data Silos: An Experimental Study" (ICDE 2022).
Shapes: ``N`` examples, ``K`` classes, ``S`` sites.
"""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from hansa_client.data.source import Dataset, Indices
from hansa_common.errors import PartitionError
from hansa_common.registry import suggest
from hansa_common.simulation_plan import Partition

_DRAWS = 1_000  # of Dirichlet proportions before it is called hopeless; a fraction of a millisecond each
_SHOWN = 5

Parts = list[Indices]
Counts = npt.NDArray[np.int64]


def partition(
    dataset: Dataset, spec: Partition, sites: int | None, seed: int, *, minimum: int = 1, among: Indices | None = None
) -> list[tuple[str | None, Indices]]:
    """Divide examples into sites; every example goes to exactly one.

    Args:
        dataset: Its labels and columns are used, its features are not touched.
        spec: How.
        sites: S; may be ``None`` for a column partition, which has a site for each value.
        seed: Same seed, same sites.
        minimum: Each site gets at least so many examples.
        among: Positions to divide; all where left out.

    Returns:
        For each site its name (the column's value, ``None`` for other partitions) and its positions, ascending.

    Raises:
        PartitionError: It cannot be done; the message says which site or column and why, the advice what to change.
    """
    among = np.arange(len(dataset), dtype=np.int64) if among is None else among
    if spec.kind == "column":
        return _by_column(dataset, spec.column, sites, minimum, among)
    if sites is None:
        raise RuntimeError(f"A partition of kind '{spec.kind}' needs the number of sites.")
    if sites * minimum > len(among):
        raise PartitionError(
            f"{len(among)} examples cannot be divided into {sites} sites of at least {minimum} examples each.",
            advice="Take fewer sites, more data or a lower data.minimum_examples.",
        )
    rng = np.random.Generator(np.random.Philox(seed))
    labels = dataset.labels[among]
    match spec.kind:
        case "iid":
            parts = np.array_split(rng.permutation(len(among)), sites)
        case "shards":
            parts = _by_shards(labels, spec.labels_per_site, sites, rng)
        case "dirichlet":
            parts = _by_label_skew(labels, spec.alpha, sites, minimum, rng)
        case "quantity":
            parts = _by_quantity(len(among), spec.alpha, sites, minimum, rng)
    _check_sizes([f"site {number} of {sites}" for number in range(1, sites + 1)], parts, minimum)
    return [(None, among[np.sort(part)]) for part in parts]


def _by_column(
    dataset: Dataset, column: str, sites: int | None, minimum: int, among: Indices
) -> list[tuple[str | None, Indices]]:
    if column not in dataset.columns:
        raise PartitionError(
            f"{dataset.origin or 'The data set'} has no column '{column}' to split by.",
            advice=suggest(column, sorted(dataset.columns)) if dataset.columns else "It has no such column at all.",
        )
    values = dataset.columns[column][among]
    without = int((values == "").sum())
    if without:
        raise PartitionError(
            f"The column '{column}' has no value in {without} of {len(values)} examples.",
            advice="Fill the column, or split by another one.",
        )
    names = [str(name) for name in np.unique(values)]
    if sites is not None and sites != len(names):
        raise PartitionError(
            f"The column '{column}' has {len(names)} values and so many sites; the plan asks for {sites}.",
            advice="Leave simulation.sites out.",
        )
    parts = [among[values == name] for name in names]
    _check_sizes([f"'{name}' (column '{column}')" for name in names], parts, minimum)
    return list(zip(names, parts, strict=True))


def _by_shards(labels: npt.NDArray[np.int64], per_site: int, sites: int, rng: np.random.Generator) -> Parts:
    """Give each site labels that the fewest sites hold so far, and divide a label's examples among its holders."""
    classes = np.unique(labels)
    if per_site > len(classes) or sites * per_site < len(classes):
        raise PartitionError(
            f"{sites} sites of {per_site} label(s) each cannot hold the {len(classes)} labels of the data.",
            advice=f"Take shards:K with K from {max(1, -(-len(classes) // sites))} to {len(classes)}, or more sites.",
        )
    holders: list[list[int]] = [[] for _ in classes]
    for site in range(sites):
        order = rng.permutation(len(classes))
        usage = np.asarray([len(holders[number]) for number in order])
        for number in order[np.argsort(usage, kind="stable")][:per_site]:
            holders[number].append(site)
    parts: list[Parts] = [[] for _ in range(sites)]
    for label, owners in zip(classes, holders, strict=True):
        examples = rng.permutation(np.flatnonzero(labels == label))
        for site, piece in zip(rng.permutation(owners), np.array_split(examples, len(owners)), strict=True):
            parts[site].append(piece)
    return [np.concatenate(pieces) for pieces in parts]


def _by_label_skew(
    labels: npt.NDArray[np.int64], alpha: float, sites: int, minimum: int, rng: np.random.Generator
) -> Parts:
    """Draw for each class the sites' shares of it from Dir(alpha) (Yurochkin et al., ICML 2019; Hsu et al. 2019).

    As in the code of Yurochkin et al. and of Li et al., a site that has reached N / S gets nothing of further classes.
    """
    classes, counts = np.unique(labels, return_counts=True)

    def attempt() -> Counts:
        table = np.zeros((len(classes), sites), dtype=np.int64)
        for row, count in enumerate(counts):
            shares = rng.dirichlet(np.full(sites, alpha))
            unfilled = shares * (table.sum(axis=0) < len(labels) / sites)
            table[row] = _cut(unfilled if unfilled.sum() > 0 else shares, int(count))
        return table

    table = _draw_until(attempt, minimum, f"dirichlet:{alpha:g}")
    pieces = [
        np.split(rng.permutation(np.flatnonzero(labels == label)), np.cumsum(row)[:-1])
        for label, row in zip(classes, table, strict=True)
    ]
    return [np.concatenate([piece[site] for piece in pieces]) for site in range(sites)]


def _by_quantity(count: int, alpha: float, sites: int, minimum: int, rng: np.random.Generator) -> Parts:
    """Draw the sites' sizes from Dir(alpha); the examples are iid."""
    table = _draw_until(lambda: _cut(rng.dirichlet(np.full(sites, alpha)), count)[None], minimum, f"quantity:{alpha:g}")
    return np.split(rng.permutation(count), np.cumsum(table[0])[:-1])


def _cut(shares: npt.NDArray[np.float64], count: int) -> Counts:
    """Turn shares into whole numbers that sum to ``count``, by rounding the running sum."""
    bounds = np.rint(np.cumsum(shares / shares.sum()) * count).astype(np.int64)
    counts: Counts = np.diff(bounds, prepend=0)
    return counts


def _draw_until(attempt: Callable[[], Counts], minimum: int, name: str) -> Counts:
    """Draw ``int64 [classes, S]`` until each site has the minimum."""
    best = 0
    for _ in range(_DRAWS):
        table = attempt()
        smallest = int(table.sum(axis=0).min())
        if smallest >= minimum:
            return table
        best = max(best, smallest)
    position = int(table.sum(axis=0).argmin()) + 1
    raise PartitionError(
        f"{name} gave no division in {_DRAWS:,} draws where all {table.shape[1]} sites have at least {minimum} "
        f"examples; in the last one site {position} had {smallest}, and the best draw's smallest site had {best}.",
        advice="Take a larger alpha, fewer sites, more data or a lower data.minimum_examples.",
    )


def _check_sizes(names: Sequence[str], parts: Parts, minimum: int) -> None:
    small = [f"{name} has {len(part)}" for name, part in zip(names, parts, strict=True) if len(part) < minimum]
    if small:
        more = f", and {len(small) - _SHOWN} more" if len(small) > _SHOWN else ""
        raise PartitionError(
            f"A site needs at least {minimum} examples: {', '.join(small[:_SHOWN])}{more}.",
            advice="Take fewer sites, more data, another partition or a lower data.minimum_examples.",
        )
