"""``windows``: long series of engines, patients or machines, cut into windows of rows that follow each other.

Shapes: ``R`` rows, ``T`` rows of a window, ``F`` features, ``N`` windows.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from hansa_client.data.contract_check import check
from hansa_client.data.delimited import DelimitedOptions, read_texts, with_points
from hansa_client.data.files import require_memory, require_path
from hansa_client.data.learned import strata
from hansa_client.data.npz import array_names, read_arrays
from hansa_client.data.source import ADAPTERS, Dataset, Indices, Source
from hansa_client.data.table import Problems, further_columns, read_names, read_numbers, require_columns
from hansa_common.contract import ArrayContract, Column, NumberTarget, ReconstructionTarget
from hansa_common.errors import ContractViolation, DataUnavailable
from hansa_common.models.registry import Contract
from hansa_common.series import WindowsContract, cut
from hansa_common.settings import parse

if TYPE_CHECKING:
    import pandas as pd

Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]

_SHOWN = 5  # units named in a message
_COUNTING = "the header of a text file is row 1"


class WindowsOptions(DelimitedOptions):
    """Options of the adapter ``windows``."""

    form: Literal["csv", "npz"] = "csv"
    """``npz``: an archive with an array ``[R]`` for each column."""
    decimal: Literal[".", ","] = "."
    """What separates the decimals in number columns of a text file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Unit:
    """One engine, patient or machine.

    Attributes:
        rows: Its rows of the file in their order, ``int64 [R]``.
        ends: The last row of each of its windows, counted within ``rows``.
    """

    rows: Indices
    ends: Indices


@ADAPTERS.register("windows")
def read(source: Source, contract: Contract) -> Dataset:
    """Return windows ``float32 [N, T, F]`` of the units in a file whose rows are in the order of time.

    Raises:
        DataUnavailable: The file is missing or broken, or gives more windows than memory is taken for.
        ContractViolation: The contract is not for windows, or columns, values or units do not fulfil it.
        SettingsError: An option is unknown or wrong.
    """
    options = parse(WindowsOptions, source.options, origin="data adapter 'windows'")
    if not isinstance(contract, ArrayContract) or contract.windows is None:
        raise ContractViolation(
            "The data adapter 'windows' cuts series; the study does not say how ([data.windows]).",
            advice="Choose another data adapter, or ask for a plan with [data.windows].",
        )
    windows, steps, label = contract.windows, contract.shape[0], label_column(contract)
    path = require_path(source, adapter="windows", folder=False)
    frame, origin = _read_frame(path, options), str(path)
    labels = () if label is None else (label,)
    require_columns(frame, (*windows.columns, windows.unit, *labels), origin)
    if options.form == "csv" and options.decimal == ",":
        frame = with_points(frame, {*windows.columns, *(labels if isinstance(contract.target, NumberTarget) else ())})
    values = _read_values(frame, windows, origin)
    units = _units(frame, windows, steps, origin)
    if windows.unlabelled == "drop" and label is not None:
        labelled = frame[label].notna().to_numpy(dtype=np.bool_)
        units = [replace(one, ends=one.ends[labelled[one.rows[one.ends + windows.horizon]]]) for one in units]
    require_memory(sum(len(one.ends) for one in units), contract.shape, origin=origin)
    _require_whole(frame, windows.unit, source.columns, origin)
    classes, targets = _learn(frame, units, contract, origin)
    none = np.zeros((0, *contract.shape), dtype=np.float32)
    features = np.concatenate([none, *(cut(values[one.rows], one.ends, steps) for one in units)])
    last = np.concatenate([np.zeros(0, dtype=np.int64), *(one.rows[one.ends] for one in units)])
    further = further_columns(frame, (windows.unit, *source.columns))
    columns = {name: column[last] for name, column in further.items() if name not in windows.columns}
    return check(Dataset(features=features, labels=classes, targets=targets, columns=columns, origin=origin), contract)


def label_column(contract: ArrayContract) -> str | None:
    """Return the column that is learned, or tells anomalies; ``None`` where none is read."""
    if isinstance(contract.target, ReconstructionTarget):
        return contract.target.anomaly
    return contract.windows.label if contract.windows is not None else None


def _read_frame(path: Path, options: WindowsOptions) -> "pd.DataFrame":
    """Return the table; the index holds the row numbers that messages name."""
    import pandas as pd

    if options.form == "csv":
        return read_texts(path, options)
    arrays = read_arrays(path, sorted(array_names(path)))
    sizes = {array.shape for array in arrays.values()}
    if len(sizes) != 1 or len(next(iter(sizes))) != 1:
        raise DataUnavailable(
            f"{path}: its arrays are no columns of one length; found {', '.join(map(str, sorted(sizes))) or 'none'}.",
            advice="Write one array a column, with as many values as there are rows.",
        )
    frame = pd.DataFrame(dict(arrays))
    frame.index = frame.index + 1
    return frame


def _read_values(frame: "pd.DataFrame", windows: WindowsContract, origin: str) -> Floats:
    """Return the features of all rows, ``float32 [rows, F]``; each row must be of a unit."""
    problems = Problems(rows=frame.index.to_numpy(dtype=np.int64))
    values = [read_numbers(frame[name], Column(name=name), problems) for name in windows.columns]
    problems.add(windows.unit, frame[windows.unit].isna().to_numpy(dtype=np.bool_), None, "what a row is of")
    problems.refuse(origin, counting=_COUNTING)
    return np.concatenate(values, axis=1)


def _units(frame: "pd.DataFrame", windows: WindowsContract, steps: int, origin: str) -> list[_Unit]:
    """Return each unit with its windows, in the order in which they appear.

    Raises:
        ContractViolation: A unit has too few rows, and the plan does not say that it is left out.
    """
    import pandas as pd

    codes, names = pd.factorize(frame[windows.unit])
    order = np.argsort(codes, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(codes[order])) + 1) if len(order) else []
    units = [_Unit(rows=rows, ends=windows.ends(len(rows), steps)) for rows in groups]
    short = [f"'{name}' with {len(one.rows)}" for name, one in zip(names, units, strict=True) if not len(one.ends)]
    if short and windows.short != "drop":
        needed = (1 if windows.short == "pad" else steps) + windows.horizon
        raise ContractViolation(
            f"{origin}: {len(short)} of {len(units)} units in column '{windows.unit}' have fewer than {needed} rows: "
            f"{', '.join(short[:_SHOWN])}{', ...' if len(short) > _SHOWN else ''}.",
            advice="Leave them out, or ask for a plan with shorter windows or another data.windows.short.",
        )
    return [one for one in units if len(one.ends)]


def _require_whole(frame: "pd.DataFrame", unit: str, columns: tuple[str, ...], origin: str) -> None:
    """Return if what the study splits or compares by is one value for all rows of a unit.

    Raises:
        ContractViolation: It is not: part of a unit would train, and part of it test.
    """
    for name in columns:
        if name not in frame.columns or name == unit:
            continue
        values = frame.groupby(unit, sort=False)[name].nunique(dropna=False)
        if (several := values[values > 1]).size:
            raise ContractViolation(
                f"{origin}: the column '{name}' has {several.iloc[0]} values for the unit '{several.index[0]}' (column "
                f"'{unit}'), and more than one for {several.size} units.",
                advice="Write one value in all rows of a unit: windows that share rows belong together.",
            )


def _learn(
    frame: "pd.DataFrame", units: list[_Unit], contract: ArrayContract, origin: str
) -> tuple[Labels, Floats | None]:
    """Return labels and targets of all windows, as ``Dataset`` has them."""
    windows, label = contract.windows, label_column(contract)
    nothing = np.zeros(0, dtype=np.int64)
    if windows is not None and windows.remaining:
        left = np.concatenate([nothing, *(len(one.rows) - 1 - one.ends for one in units)]).astype(np.float32)
        most = contract.target.maximum if isinstance(contract.target, NumberTarget) else None
        capped = left if most is None else np.minimum(left, np.float32(most))
        return strata(capped), capped
    horizon = windows.horizon if windows is not None else 0
    at = frame.iloc[np.concatenate([nothing, *(one.rows[one.ends + horizon] for one in units)])]
    if label is None:
        return np.zeros(len(at), dtype=np.int64), None
    problems = Problems(rows=at.index.to_numpy(dtype=np.int64))
    found: tuple[Labels, Floats | None]
    if isinstance(contract.target, NumberTarget):
        column = Column(name=label, minimum=contract.target.minimum, maximum=contract.target.maximum)
        numbers = read_numbers(at[label], column, problems)[:, 0]
        found = strata(numbers), numbers
    elif isinstance(contract.target, ReconstructionTarget):
        normal, anomalous = contract.target.normal, contract.target.anomalous
        places = read_names(at[label], label, (*normal, *anomalous), problems)
        found = (places >= len(normal)).astype(np.int64), None
    else:
        found = read_names(at[label], label, contract.classes, problems), None
    problems.refuse(origin, counting=_COUNTING)
    return found
