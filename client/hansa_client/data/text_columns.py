"""Columns that are no features: what a study has to know of each row beside what it learns from.

Shapes: ``N`` rows.
"""

import numpy as np
import numpy.typing as npt

from hansa_client.data.source import Dataset, Indices
from hansa_common.errors import ContractViolation
from hansa_common.plan import StudyPlan
from hansa_common.preprocessing_plan import unit_column
from hansa_common.registry import suggest


def needed_columns(plan: StudyPlan) -> tuple[str, ...]:
    """Return the further columns that a study reads of each site's data: what ``Source.columns`` asks for."""
    privacy, evaluation = plan.privacy.differential, plan.evaluation
    wanted = [privacy.unit if privacy is not None else None, evaluation.column, evaluation.group, *evaluation.groups]
    if plan.preprocessing.needs_statistics:
        wanted.append(unit_column(plan.data, plan.evaluation.group))
    return tuple(dict.fromkeys(name for name in wanted if name is not None))


def text_column(dataset: Dataset, name: str, *, key: str, says: str) -> npt.NDArray[np.str_]:
    """Return a column that has a value in each row, ``[N]``.

    Args:
        dataset: The data.
        name: Of the column.
        key: Of the plan that asks for it.
        says: What it says of a row, for the message: ``"whose each row is"``.

    Raises:
        ContractViolation: The data have no such column, or a row has no value in it.
    """
    origin = dataset.origin or "The data"
    values = dataset.columns.get(name)
    if values is None:
        found = ", ".join(sorted(dataset.columns)) or "none"
        raise ContractViolation(
            f"{origin}: the column '{name}' is missing, which says {says} ({key}); further columns here: {found}.",
            advice=suggest(name, sorted(dataset.columns)) or "Add the column, or ask for a plan with another one.",
        )
    empty = np.flatnonzero(values == "")
    if empty.size:
        raise ContractViolation(
            f"{origin}: the column '{name}' ({key}) has no value in {empty.size} row(s), the first is example "
            f"{empty[0] + 1}: it must say {says}.",
            advice="Fill in the column, or leave these rows out.",
        )
    return values


def units_of(plan: StudyPlan, dataset: Dataset, rows: Indices) -> npt.NDArray[np.int64] | None:
    """Return which examples are of one person or thing, for statistics that must not tell of one.

    Args:
        plan: The study.
        dataset: The data.
        rows: The examples.

    Returns:
        A number from 0 for each, ``[N]``; ``None`` where each is of its own.

    Raises:
        ContractViolation: The data do not say.
    """
    if (name := unit_column(plan.data, plan.evaluation.group)) is None:
        return None
    values = text_column(dataset, name, key="preprocessing.minimum_count", says="whose each example is")
    numbers: npt.NDArray[np.int64] = np.unique(values[rows], return_inverse=True)[1].astype(np.int64)
    return numbers
