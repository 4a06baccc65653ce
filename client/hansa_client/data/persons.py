"""Whose each row is: the unit that example-level differential privacy protects.

Shapes: ``N`` rows, ``U`` persons.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from hansa_client.data.source import Dataset, Indices
from hansa_client.data.text_columns import text_column


@dataclass(frozen=True, slots=True, kw_only=True)
class Persons:
    """Some rows of a data set, grouped by person.

    Attributes:
        rows: ``int64 [N]``, places among the positions given, all rows of a person beside each other.
        starts: ``int64 [U]``, where in ``rows`` each person's begin.
        sizes: ``int64 [U]``, how many rows each person has; at least one.
    """

    rows: Indices = field(repr=False)
    starts: Indices = field(repr=False)
    sizes: Indices = field(repr=False)

    @classmethod
    def of(cls, dataset: Dataset, unit: str | None, positions: Indices) -> "Persons":
        """Group the rows at these positions by the column ``unit``; without one each row is a person.

        Raises:
            ContractViolation: The data have no such column, or a row has no value in it.
        """
        if unit is None:
            each = np.arange(len(positions), dtype=np.int64)
            return cls(rows=each, starts=each, sizes=np.ones(len(positions), dtype=np.int64))
        ids = unit_column(dataset, unit)[positions]
        rows = np.argsort(ids, kind="stable").astype(np.int64)
        _, starts, sizes = np.unique(ids[rows], return_index=True, return_counts=True)
        return cls(rows=rows, starts=starts.astype(np.int64), sizes=sizes.astype(np.int64))

    def __len__(self) -> int:
        return len(self.starts)

    def draw_rows(self, chosen: npt.NDArray[np.bool_], below: Callable[[Indices], Indices]) -> Indices:
        """Return one row of each chosen person, each of theirs as likely.

        Args:
            chosen: ``bool [U]``.
            below: Draws whole numbers below the limits it is given.
        """
        rows: Indices = self.rows[self.starts[chosen] + below(self.sizes[chosen])]
        return rows


def unit_column(dataset: Dataset, unit: str) -> npt.NDArray[np.str_]:
    """Return the column that says whose each row is, ``[N]``.

    Raises:
        ContractViolation: The data have no such column, or a row has no value in it.
    """
    return text_column(dataset, unit, key="privacy.differential.unit", says="whose each row is")
