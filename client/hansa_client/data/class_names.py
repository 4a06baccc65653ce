"""Labels as a data set has them -> indices into the contract's classes."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from hansa_common.errors import ContractViolation
from hansa_common.registry import suggest

Labels = npt.NDArray[np.int64]


def index_names(names: Sequence[str], classes: Sequence[str], *, origin: str) -> Labels:
    """Return the class index of each name, ``int64 [N]``.

    Raises:
        ContractViolation: A name is no class of the study.
    """
    found, positions = np.unique(np.asarray(names, dtype=np.str_), return_inverse=True)
    index = {name: number for number, name in enumerate(classes)}
    for name in found:
        if str(name) not in index:
            raise ContractViolation(
                f"{origin}: found the class '{name}', which is no class of the study.",
                advice=suggest(str(name), classes),
            )
    return np.asarray([index[str(name)] for name in found], dtype=np.int64)[positions]


def reorder(labels: Labels, known: Sequence[str], classes: Sequence[str]) -> Labels:
    """Translate indices into ``known`` to indices into ``classes`` where both list the same names in another order.

    Where the names differ the indices stay: a plan may call the classes otherwise.
    """
    if tuple(known) == tuple(classes) or sorted(known) != sorted(classes):
        return labels
    if len(labels) and (labels.min() < 0 or labels.max() >= len(known)):
        return labels  # the contract's check says what is wrong
    return np.asarray([classes.index(name) for name in known], dtype=np.int64)[labels]
