"""``csv``: a text file with a header line, one row an example."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from hansa_client.data.contract_check import check
from hansa_client.data.files import require_path
from hansa_client.data.source import ADAPTERS, Dataset, Source
from hansa_client.data.table import require_table, to_dataset
from hansa_common.contract import TableContract, target_columns
from hansa_common.errors import DataUnavailable
from hansa_common.models.registry import Contract
from hansa_common.settings import Strict, parse

if TYPE_CHECKING:
    import pandas as pd


class CsvOptions(Strict):
    """Options of the adapter ``csv``."""

    delimiter: Annotated[str, Field(min_length=1, max_length=1)] = ","
    decimal: Literal[".", ","] = "."
    """What separates the decimals in number columns."""
    encoding: Annotated[str, Field(min_length=1, max_length=40)] = "utf-8-sig"
    """``utf-8-sig`` reads UTF-8 with and without the mark that spreadsheets put in front."""
    missing_values: tuple[str, ...] = ("", "NA", "N/A", "NaN", "nan", "NULL", "null")
    """Texts that stand for a missing value."""


@ADAPTERS.register("csv")
def read(source: Source, contract: Contract) -> Dataset:
    """Return the columns that a table contract names.

    Every value is read as text and converted by the contract, so a message can quote what the file holds.

    Raises:
        DataUnavailable: The file is missing, is no CSV or has another encoding.
        ContractViolation: Columns or values do not fulfil the contract.
        SettingsError: An option is unknown or wrong.
    """
    options = parse(CsvOptions, source.options, origin="data adapter 'csv'")
    table = require_table(contract, adapter="csv")
    path = require_path(source, adapter="csv", folder=False)
    frame = _use_point(_read_texts(path, options), table, options)
    return check(
        to_dataset(frame, table, origin=str(path), counting="the header is row 1", columns=source.columns), table
    )


def _read_texts(path: Path, options: CsvOptions) -> "pd.DataFrame":
    """Return all values as texts, missing ones as NaN; the index is the row of the file, the header's being 1."""
    import pandas as pd

    try:
        # header=None: pandas would rename a doubled column and turn the first into an index where rows are longer.
        frame = pd.read_csv(
            path,
            sep=options.delimiter,
            header=None,
            dtype=str,
            keep_default_na=False,
            na_values=list(options.missing_values),
            skipinitialspace=True,
            skip_blank_lines=False,
            encoding=options.encoding,
        )
    except (OSError, UnicodeError, LookupError, ValueError) as error:  # a ParserError is a ValueError
        raise DataUnavailable(
            f"{path} cannot be read as CSV: {str(error).strip()}.",
            advice="Check the file, and the options delimiter and encoding.",
        ) from error
    header = ["" if pd.isna(name) else str(name).strip() for name in frame.iloc[0]]
    frame = frame.set_axis(header, axis=1).iloc[1:]
    frame.index = frame.index + 1
    return frame[frame.notna().any(axis=1)]  # a blank line is no example


def _use_point(frame: "pd.DataFrame", contract: TableContract, options: CsvOptions) -> "pd.DataFrame":
    if options.decimal == ".":
        return frame
    numbers = {column.name for column in contract.columns if column.type != "category"}
    if contract.target is not None and contract.target.kind != "reconstruction":
        numbers |= {target_columns(contract)[0]}  # the number, or the time
    numbers &= set(frame.columns)
    # "1.234,5" stays no number: which of the two separates is not guessed
    return frame.assign(
        **{name: frame[name].str.replace(".", "?", regex=False).str.replace(",", ".", regex=False) for name in numbers}
    )
