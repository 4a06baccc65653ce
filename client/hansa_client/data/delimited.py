"""A text file with a header line, read as texts: what ``csv``, ``text`` and ``windows`` have in common."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from hansa_common.errors import DataUnavailable
from hansa_common.settings import Strict

if TYPE_CHECKING:
    import pandas as pd

Encoding = Annotated[str, Field(min_length=1, max_length=40)]
UTF_8 = "utf-8-sig"  # reads UTF-8 with and without the mark that spreadsheets put in front


class DelimitedOptions(Strict):
    """How a file separates its rows into values."""

    delimiter: Annotated[str, Field(min_length=1, max_length=1)] = ","
    encoding: Encoding = UTF_8
    missing_values: tuple[str, ...] = ("", "NA", "N/A", "NaN", "nan", "NULL", "null")
    """Texts that stand for a missing value."""


def read_texts(path: Path, options: DelimitedOptions) -> "pd.DataFrame":
    """Return all values as texts, missing ones as NaN; the index is the row of the file, the header's being 1.

    Raises:
        DataUnavailable: It cannot be read, is no such file or has another encoding.
    """
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
        raise unreadable(path, error, options.encoding, what="as CSV") from error
    header = ["" if pd.isna(name) else str(name).strip() for name in frame.iloc[0]]
    frame = frame.set_axis(header, axis=1).iloc[1:]
    frame.index = frame.index + 1
    return frame[frame.notna().any(axis=1)]  # a blank line is no example


def with_points(frame: "pd.DataFrame", names: Iterable[str]) -> "pd.DataFrame":
    """Return the table with points for the decimal commas of these columns."""
    # "1.234,5" stays no number: which of the two separates is not guessed
    return frame.assign(
        **{name: frame[name].str.replace(".", "?", regex=False).str.replace(",", ".", regex=False) for name in names}
    )


def unreadable(path: Path, error: Exception, encoding: str, *, what: str) -> DataUnavailable:
    """Return the error to raise for a file that cannot be read; it names the first line of another encoding."""
    where = _foreign_line(path, encoding) if isinstance(error, UnicodeError) else ""
    return DataUnavailable(
        f"{path} cannot be read {what}: {str(error).strip()}{where}.",
        advice="Check the file, and the options delimiter and encoding.",
    )


def _foreign_line(path: Path, encoding: str) -> str:
    """Say in which line a file is not of an encoding; empty where each line alone is."""
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                line.decode(encoding)
            except UnicodeError:
                return f" (line {number})"
    return ""
