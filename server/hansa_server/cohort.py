"""Chooses the sites of a round."""

from collections.abc import Collection

import numpy as np

from hansa_common.seeds import derive_seed


def choose(sites: Collection[str], *, size: int | None, seed: int, round_number: int) -> tuple[str, ...]:
    """Return the cohort of a round in ascending site id.

    Args:
        sites: All sites that may take part.
        size: How many, drawn without replacement; all where it is ``None`` or not fewer than there are.
        seed: The plan's.
        round_number: The draw depends on it alone beside the seed, so a resumed study draws the same.
    """
    roster = sorted(sites)
    if size is None or size >= len(roster):
        return tuple(roster)
    generator = np.random.Generator(np.random.Philox(derive_seed(seed, round_number, "cohort")))
    return tuple(roster[index] for index in sorted(generator.choice(len(roster), size=size, replace=False)))
