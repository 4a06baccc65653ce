"""Whose each row is: the unit that example-level differential privacy protects.

Shapes: ``N`` rows, ``U`` persons.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from hansa_client.data.source import Dataset, Indices
from hansa_common.errors import ContractViolation
from hansa_common.plan import StudyPlan
from hansa_common.registry import suggest


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


def unit_columns(plan: StudyPlan) -> tuple[str, ...]:
    """Return the columns that a study needs beside the contract's, as ``Source.columns`` asks for them.

    One says whose each row is; the others are those by which groups are compared.
    """
    privacy = plan.privacy.differential
    unit = (privacy.unit,) if privacy is not None and privacy.unit is not None else ()
    return tuple(dict.fromkeys((*unit, *plan.evaluation.groups)))


def unit_column(dataset: Dataset, unit: str) -> npt.NDArray[np.str_]:
    """Return the column that says whose each row is, ``[N]``.

    Raises:
        ContractViolation: The data have no such column, or a row has no value in it.
    """
    origin = dataset.origin or "The data"
    values = dataset.columns.get(unit)
    if values is None:
        found = ", ".join(sorted(dataset.columns)) or "none"
        raise ContractViolation(
            f"{origin}: the column '{unit}' is missing, which says whose each row is (privacy.differential.unit); "
            f"further columns here: {found}.",
            advice=suggest(unit, sorted(dataset.columns)) or "Add the column, or ask for a plan with another unit.",
        )
    empty = np.flatnonzero(values == "")
    if empty.size:
        raise ContractViolation(
            f"{origin}: the column '{unit}' (privacy.differential.unit) has no value in {empty.size} row(s), the first "
            f"is example {empty[0] + 1}: whose they are is unknown.",
            advice="Fill in the column, or leave these rows out.",
        )
    return values
