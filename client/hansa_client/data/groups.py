"""Who is in which group: the columns by which a study compares how people fare."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from hansa_client.data.source import Dataset, Indices
from hansa_common.errors import ContractViolation
from hansa_common.registry import suggest


def memberships(dataset: Dataset, groups: Mapping[str, Sequence[str]], positions: Indices) -> npt.NDArray[np.bool_]:
    """Return who is in which group, ``bool [N, G]``: one column for each value of each column, in the plan's order.

    Args:
        dataset: Where the examples are.
        groups: Column -> values. Somebody with another value, or without one, is in none.
        positions: Of the N examples.

    Raises:
        ContractViolation: The data have no such column.
    """
    found = [np.zeros((len(positions), 0), dtype=np.bool_)]
    for name, values in groups.items():
        column = dataset.columns.get(name)
        if column is None:
            raise ContractViolation(
                f"{dataset.origin or 'The data'}: the column '{name}' is missing, by which the study compares groups "
                "(evaluation.groups).",
                advice=suggest(name, sorted(dataset.columns)) or "Add the column, or ask for a plan without it.",
            )
        found.append(column[positions][:, None] == np.asarray(values, dtype=np.str_))
    return np.concatenate(found, axis=1)
