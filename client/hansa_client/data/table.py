"""A table -> features and labels by a ``TableContract``: CSV, Parquet and bundled tables go through here.

Shapes: ``N`` examples, ``F`` features.
"""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from hansa_client.data.contract_check import describe_range
from hansa_client.data.learned import strata
from hansa_client.data.source import Dataset
from hansa_common.contract import Column, NumberTarget, SurvivalTarget, TableContract, target_columns
from hansa_common.errors import ContractViolation
from hansa_common.models.registry import Contract

if TYPE_CHECKING:
    import pandas as pd

Mask = npt.NDArray[np.bool_]
Texts = npt.NDArray[np.str_]

_SHOWN = 5  # rows and values named for a problem
_SHOWN_COLUMNS = 20
_DISTINCT = 1_000  # a column with more values is no grouping of examples into institutions
_TEXT = 64  # characters; longer values are no names of sites
_LARGEST = float(np.finfo(np.float32).max)


def require_table(contract: Contract, *, adapter: str) -> TableContract:
    """Return the contract if it is for tables.

    Raises:
        ContractViolation: It is for images or arrays.
    """
    if not isinstance(contract, TableContract):
        raise ContractViolation(
            f"The data adapter '{adapter}' reads tables; the study asks for data of kind '{contract.kind}'.",
            advice="Choose another data adapter.",
        )
    return contract


@dataclass(slots=True, kw_only=True)
class Problems:
    """What a table has against its contract, one line a column and kind of fault."""

    rows: npt.NDArray[np.int64]
    lines: list[str] = field(default_factory=list)

    def add(self, name: str, wrong: Mask, values: "pd.Series[Any] | None", expected: str) -> None:
        """Note the rows where ``wrong``; ``values`` is ``None`` where the value is missing."""
        count = int(wrong.sum())
        if not count:
            return
        found = "no value"
        if values is not None:
            found = ", ".join(f"'{value}'" for value in values[wrong].unique()[:_SHOWN])
        rows = ", ".join(str(row) for row in self.rows[wrong][:_SHOWN]) + (", ..." if count > _SHOWN else "")
        self.lines.append(
            f"column '{name}': expected {expected}; found {found} in row(s) {rows} ({count} of {len(wrong)} rows)."
        )

    def refuse(self, origin: str, *, counting: str) -> None:
        """Return if there are none.

        Args:
            origin: Path or name of the data set.
            counting: How rows are numbered: ``"the header is row 1"``.

        Raises:
            ContractViolation: There are; all columns are named together.
        """
        if self.lines:
            raise ContractViolation(
                f"{origin} does not fulfil the data contract (rows are counted as in the file, {counting}):\n"
                + "\n".join(self.lines),
                advice="Correct these rows, or declare what stands for a missing value (option missing_values).",
            )


def to_dataset(
    frame: "pd.DataFrame", contract: TableContract, *, origin: str, counting: str, columns: tuple[str, ...] = ()
) -> Dataset:
    """Return the columns of the contract as ``float32 [N, F]``, with labels and columns to partition by.

    Columns that the contract does not name are no features. A category becomes one feature for each allowed value.
    Rows without a value in a ``missing = "drop"`` column are left out before anything else is checked.

    Args:
        frame: The table, texts or typed; its index holds the row numbers that messages name.
        contract: What the study asks for.
        origin: Path or name of the data set.
        counting: How rows are numbered: ``"the header is row 1"``.
        columns: Further columns to return, where they are there, whatever their values are.

    Raises:
        ContractViolation: Columns are missing, or values are missing, of another type, outside the range, or no class
            or category of the contract; all columns are named together, with the first rows.
    """
    require_columns(frame, (*(column.name for column in contract.columns), *target_columns(contract)), origin)
    kept = ~_missing(frame, [column.name for column in contract.columns if column.missing == "drop"])
    dropped = int((~kept).sum())
    if dropped:
        frame = frame[kept]
        origin += f" ({dropped} of {len(kept)} rows left out for missing values)"
    problems = Problems(rows=frame.index.to_numpy(dtype=np.int64))
    parts = [_read_column(frame[column.name], column, problems) for column in contract.columns]
    labels, targets = _read_learned(frame, contract, problems)
    problems.refuse(origin, counting=counting)
    features = np.concatenate(parts, axis=1)
    if isinstance(contract.target, NumberTarget) and targets is not None:
        labels = strata(targets)
    further = further_columns(frame, columns)
    return Dataset(features=features, labels=labels, targets=targets, columns=further, origin=origin)


def _read_learned(
    frame: "pd.DataFrame", contract: TableContract, problems: Problems
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32] | None]:
    """Return labels and targets as ``Dataset`` has them; those of a number are stratified once all rows are right."""
    match contract.target:
        case None:
            return read_names(frame[contract.label], contract.label, contract.classes, problems), None
        case NumberTarget() as number:
            column = Column(name=contract.label, minimum=number.minimum, maximum=number.maximum)
            return np.zeros(len(frame), np.int64), read_numbers(frame[column.name], column, problems)[:, 0]
        case SurvivalTarget() as survival:
            events = read_names(frame[survival.event], survival.event, ("0", "1"), problems)
            time = Column(name=survival.time, minimum=0.0)
            return events, read_numbers(frame[time.name], time, problems)[:, 0]
    name, normal = contract.target.anomaly, contract.target.normal
    if name is None:
        return np.zeros(len(frame), np.int64), None
    found = read_names(frame[name], name, (*normal, *contract.target.anomalous), problems)
    return (found >= len(normal)).astype(np.int64), None


def require_columns(frame: "pd.DataFrame", names: Iterable[str], origin: str) -> None:
    """Return if a table has these columns, and no two of one name.

    Raises:
        ContractViolation: It has not; all that are missing are named.
    """
    found = [str(name) for name in frame.columns]
    twice = sorted({name for name in found if found.count(name) > 1})
    if twice:
        raise ContractViolation(
            f"{origin}: more than one column is named '{twice[0]}'.", advice="Give each column a name of its own."
        )
    lines = []
    for name in dict.fromkeys(names):
        if name not in found:
            close = difflib.get_close_matches(name, found, n=1)
            lines.append(f"column '{name}' is missing." + (f" Did you mean '{close[0]}'?" if close else ""))
    if lines:
        shown = ", ".join(found[:_SHOWN_COLUMNS]) + (", ..." if len(found) > _SHOWN_COLUMNS else "")
        raise ContractViolation(
            f"{origin} does not fulfil the data contract:\n" + "\n".join(lines),
            advice=f"Rename columns to the contract's names, or check the delimiter; the file has: {shown}.",
        )


def _missing(frame: "pd.DataFrame", names: list[str]) -> Mask:
    return np.asarray(frame[names].isna().to_numpy(dtype=np.bool_).any(axis=1), dtype=np.bool_)


def _read_column(values: "pd.Series[Any]", column: Column, problems: Problems) -> npt.NDArray[np.float32]:
    if column.type == "category":
        codes = read_names(values, column.name, column.categories, problems)
        matches: npt.NDArray[np.bool_] = codes[:, None] == np.arange(len(column.categories))
        return matches.astype(np.float32)
    return read_numbers(values, column, problems)


def read_numbers(values: "pd.Series[Any]", column: Column, problems: Problems) -> npt.NDArray[np.float32]:
    """Return ``float32 [N, 1]``; a value that is noted as a problem becomes 0."""
    scope = describe_range(column.minimum, column.maximum)
    expected = f"a {'whole ' if column.type == 'int' else ''}number{' of ' if scope else ''}{scope}"
    missing = values.isna().to_numpy(dtype=np.bool_)
    numbers = _to_numbers(values)
    wrong = ~missing & ~(np.abs(numbers) <= _LARGEST)
    numbers = np.where(missing | wrong, np.nan if column.missing == "fill" else 0.0, numbers)
    if column.type == "int":
        wrong |= ~missing & (numbers != np.rint(numbers))
    if column.minimum is not None:
        wrong |= ~missing & (numbers < column.minimum)
    if column.maximum is not None:
        wrong |= ~missing & (numbers > column.maximum)
    if column.missing != "fill":
        problems.add(column.name, missing, None, expected)
    problems.add(column.name, wrong, values, expected)
    return numbers.astype(np.float32)[:, None]


def _to_numbers(values: "pd.Series[Any]") -> npt.NDArray[np.float64]:
    """Return ``float64 [N]``, NaN where a value is missing or no number; a date is none."""
    import pandas as pd

    if pd.api.types.is_datetime64_any_dtype(values) or pd.api.types.is_timedelta64_dtype(values):
        return np.full(len(values), np.nan)
    numbers = pd.to_numeric(values, errors="coerce")
    return np.asarray(numbers.to_numpy(dtype=np.float64, na_value=np.nan), dtype=np.float64)


def read_names(
    values: "pd.Series[Any]", name: str, allowed: tuple[str, ...], problems: Problems
) -> npt.NDArray[np.int64]:
    """Return the position of each value in ``allowed``, ``int64 [N]``; -1 where it is noted as a problem."""
    import pandas as pd

    codes, found = pd.factorize(values)  # few distinct values: names are compared once each
    positions = [_position(value, allowed) for value in found]
    indices = np.asarray([*positions, -1], dtype=np.int64)[codes]
    shown = ", ".join(f"'{choice}'" for choice in allowed[:_SHOWN_COLUMNS])
    expected = f"one of {shown}{', ...' if len(allowed) > _SHOWN_COLUMNS else ''}"
    problems.add(name, codes < 0, None, expected)
    problems.add(name, (codes >= 0) & (indices < 0), values, expected)
    return indices


def _position(value: object, allowed: tuple[str, ...]) -> int:
    """Find a value among names; ``1.0`` is the name ``1``, as exports write whole numbers in columns with gaps."""
    for text in (str(value).strip(), _text(value)):
        if text in allowed:
            return allowed.index(text)
    return -1


def _text(value: object) -> str:
    """Write a value as people do: no blanks around it, whole numbers without a decimal point."""
    text = str(value).strip()
    whole, point, decimals = text.partition(".")
    return whole if point and whole.lstrip("+-").isdigit() and not decimals.strip("0") else text


def further_columns(frame: "pd.DataFrame", wanted: tuple[str, ...]) -> dict[str, Texts]:
    """Return the columns whose few values can name sites, and those wanted; a missing value is an empty text."""
    import pandas as pd

    columns = {}
    for name in frame.columns:
        codes, found = pd.factorize(frame[name])
        if name not in wanted and not 0 < len(found) <= _DISTINCT:
            continue
        texts = [_text(value) for value in found]
        fractions = pd.api.types.is_float_dtype(frame[name]) and any("." in text for text in texts)
        if name in wanted or (not fractions and max(len(text) for text in texts) <= _TEXT):
            columns[str(name)] = np.asarray([*texts, ""], dtype=np.str_)[codes]
    return columns
