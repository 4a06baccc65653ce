"""``parquet``: a Parquet file, or a folder of Parquet files of one schema, one row an example."""

from pathlib import Path
from typing import TYPE_CHECKING

from hansa_client.data.contract_check import check
from hansa_client.data.files import require_path
from hansa_client.data.source import ADAPTERS, Dataset, Source
from hansa_client.data.table import require_table, to_dataset
from hansa_common.errors import DataUnavailable
from hansa_common.models.registry import Contract
from hansa_common.settings import Strict, parse

if TYPE_CHECKING:
    import pandas as pd


class ParquetOptions(Strict):
    """Options of the adapter ``parquet``."""

    missing_values: tuple[str, ...] = ()
    """Texts that stand for a missing value, beside null and NaN."""


@ADAPTERS.register("parquet")
def read(source: Source, contract: Contract) -> Dataset:
    """Return the columns that a table contract names.

    Raises:
        DataUnavailable: The file is missing or no Parquet.
        ContractViolation: Columns or values do not fulfil the contract.
        SettingsError: An option is unknown or wrong.
    """
    options = parse(ParquetOptions, source.options, origin="data adapter 'parquet'")
    table = require_table(contract, adapter="parquet")
    path = require_path(source, adapter="parquet", folder=None)
    frame = _read_frame(path)
    if options.missing_values:
        frame = frame.mask(frame.isin(list(options.missing_values)))
    return check(
        to_dataset(frame, table, origin=str(path), counting="the first is row 1", columns=source.columns), table
    )


def _read_frame(path: Path) -> "pd.DataFrame":
    """Return the table with rows counted from 1, not by an index that pandas may have stored."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        frame: pd.DataFrame = pq.read_table(path).to_pandas(ignore_metadata=True)
    except (OSError, pa.ArrowException) as error:
        raise DataUnavailable(
            f"{path} cannot be read as Parquet: {error}.", advice="Check the file; 'csv' is for text files."
        ) from error
    frame.index = frame.index + 1
    return frame
