"""Canaries: examples with a wrong label, each of which a site trains on or not by a coin of its own.

What a model says about them tells how much of a single example it keeps (Carlini, Liu, Erlingsson, Kos, Song, "The
Secret Sharer", USENIX Security 2019). They are examples that the site keeps for validation and tests, so they look like
all others and fit the data contract, and only their label has to be learned by heart.

Shapes: ``m`` canaries of all sites together.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from hansa_client.data.source import Dataset, Indices
from hansa_client.leaks.pipeline import trained_on
from hansa_client.site_data import SiteData


@dataclass(frozen=True, slots=True, kw_only=True)
class Planted:
    """One site with its canaries.

    Attributes:
        site: Trains on its own examples and on those canaries that are in.
        canaries: Positions of the site's canaries in its data set.
        included: ``bool``, the coin of each.
        members: Positions of the site's own training examples.
        others: Positions of its examples that nobody trains on and no canary was made of.
    """

    site: SiteData
    canaries: Indices = field(repr=False)
    included: npt.NDArray[np.bool_] = field(repr=False)
    members: Indices = field(repr=False)
    others: Indices = field(repr=False)


def plant(sites: Sequence[SiteData], *, per_site: int, classes: int, seed: int) -> tuple[Planted, ...]:
    """Make canaries of half of each site's held-out examples, at most ``per_site``, and toss their coins.

    Args:
        sites: Of one simulation: they share a data set.
        per_site: Most canaries of one site.
        classes: Number of classes.
        seed: Of choice, labels and coins.
    """
    rng = np.random.Generator(np.random.Philox(seed))
    dataset = sites[0].dataset
    chosen, held_out = [], []
    for site in sites:
        apart = np.concatenate([site.splits.validation, site.splits.test])
        order = rng.permutation(apart)
        count = min(per_site, len(order) // 2)
        chosen.append(order[:count])
        held_out.append(np.sort(order[count:]))
    originals = np.concatenate(chosen)
    wrong = (dataset.labels[originals] + rng.integers(1, classes, len(originals))) % classes
    larger = _append(dataset, originals, wrong)
    coins = rng.random(len(originals)) < 0.5  # noqa: PLR2004 - a fair coin
    planted, first = [], len(dataset)
    for site, canaries, others in zip(sites, chosen, held_out, strict=True):
        positions = np.arange(first, first + len(canaries))
        included = coins[positions - len(dataset)]
        examples = np.concatenate([site.splits.train, positions[included]])
        planted.append(
            Planted(
                site=trained_on(site, examples, larger),
                canaries=positions,
                included=included,
                members=site.splits.train,
                others=others,
            )
        )
        first += len(canaries)
    return tuple(planted)


def _append(dataset: Dataset, originals: Indices, labels: npt.NDArray[np.int64]) -> Dataset:
    features = np.concatenate([dataset.features, dataset.features[originals]])
    return replace(dataset, features=features, labels=np.concatenate([dataset.labels, labels]), columns={})
