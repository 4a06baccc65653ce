"""``csv``: a text file with a header line, one row an example."""

from typing import TYPE_CHECKING, Literal

from hansa_client.data.contract_check import check
from hansa_client.data.delimited import DelimitedOptions, read_texts, with_points
from hansa_client.data.files import require_path
from hansa_client.data.source import ADAPTERS, Dataset, Source
from hansa_client.data.table import require_table, to_dataset
from hansa_common.contract import TableContract, target_columns
from hansa_common.models.registry import Contract
from hansa_common.settings import parse

if TYPE_CHECKING:
    import pandas as pd


class CsvOptions(DelimitedOptions):
    """Options of the adapter ``csv``."""

    decimal: Literal[".", ","] = "."
    """What separates the decimals in number columns."""


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
    frame = _use_point(read_texts(path, options), table, options)
    return check(
        to_dataset(frame, table, origin=str(path), counting="the header is row 1", columns=source.columns), table
    )


def _use_point(frame: "pd.DataFrame", contract: TableContract, options: CsvOptions) -> "pd.DataFrame":
    if options.decimal == ".":
        return frame
    numbers = {column.name for column in contract.columns if column.type != "category"}
    if contract.target is not None and contract.target.kind != "reconstruction":
        numbers |= {target_columns(contract)[0]}  # the number, or the time
    return with_points(frame, numbers & set(frame.columns))
