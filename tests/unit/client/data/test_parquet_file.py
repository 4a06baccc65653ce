from pathlib import Path

import pandas as pd
import pytest

from hansa_client.data import ADAPTERS, Source
from hansa_common.contract import Column, TableContract
from hansa_common.errors import ContractViolation, DataUnavailable

CONTRACT = TableContract(
    kind="table",
    label="ill",
    classes=("0", "1"),
    columns=(Column(name="age", missing="drop"), Column(name="ward", type="category", categories=("A", "B"))),
    minimum_examples=1,
)
FRAME = pd.DataFrame({"ward": ["A", "B", "B"], "age": [1, None, 3], "ill": [0, 1, 1]}, index=[7, 8, 9])


def test_typed_columns_are_read(tmp_path: Path) -> None:
    path = tmp_path / "patients.parquet"
    FRAME.to_parquet(path)
    dataset = ADAPTERS["parquet"](Source(path=path), CONTRACT)
    assert dataset.features.tolist() == [[1.0, 1.0, 0.0], [3.0, 0.0, 1.0]]
    assert dataset.labels.tolist() == [0, 1]
    assert dataset.columns["ward"].tolist() == ["A", "B"]


def test_folder_of_files_is_one_table(tmp_path: Path) -> None:
    FRAME.iloc[:2].to_parquet(tmp_path / "a.parquet")
    FRAME.iloc[2:].to_parquet(tmp_path / "b.parquet")
    assert len(ADAPTERS["parquet"](Source(path=tmp_path), CONTRACT)) == 2


def test_rows_count_from_1(tmp_path: Path) -> None:
    path = tmp_path / "patients.parquet"
    FRAME.assign(ward=["A", "B", "C"]).to_parquet(path)
    with pytest.raises(ContractViolation, match=r"the first is row 1\).*\n.*found 'C' in row\(s\) 3 \("):
        ADAPTERS["parquet"](Source(path=path), CONTRACT)


def test_missing_values_option(tmp_path: Path) -> None:
    path = tmp_path / "patients.parquet"
    FRAME.assign(ward=["A", "B", "unknown"]).to_parquet(path)
    with pytest.raises(ContractViolation, match=r"column 'ward'.*no value"):
        ADAPTERS["parquet"](Source(path=path, options={"missing_values": ("unknown",)}), CONTRACT)


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "patients.parquet"
    path.write_text("age,ill\n1,0\n")
    with pytest.raises(DataUnavailable, match="cannot be read as Parquet"):
        ADAPTERS["parquet"](Source(path=path), CONTRACT)


def test_a_column_that_the_study_needs_is_returned(tmp_path: Path) -> None:
    path = tmp_path / "patients.parquet"
    count = 1_100
    pd.DataFrame({"ward": "A", "age": 1, "ill": 0, "patient": range(count)}).to_parquet(path)
    assert "patient" not in ADAPTERS["parquet"](Source(path=path), CONTRACT).columns
    dataset = ADAPTERS["parquet"](Source(path=path, columns=("patient",)), CONTRACT)
    assert dataset.columns["patient"][-1] == "1099"
