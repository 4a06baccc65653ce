from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hansa_client.data import ADAPTERS, Source
from hansa_common.contract import Column, ImageContract, TableContract
from hansa_common.errors import ContractViolation, DataError, DataUnavailable, SettingsError

CONTRACT = TableContract(
    kind="table", label="ill", classes=("no", "yes"), columns=(Column(name="age", minimum=0),), minimum_examples=1
)


def read(folder: Path, text: str | bytes, **options: Any) -> Any:
    path = folder / "patients.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return ADAPTERS["csv"](Source(path=path, options=options), CONTRACT)


def test_reads_texts_with_blanks_blank_lines_and_byte_order_mark(tmp_path: Path) -> None:
    dataset = read(tmp_path, "\ufeffage, ill \n1, yes\n\n2 ,no \n\n")
    assert dataset.features.tolist() == [[1.0], [2.0]]
    assert dataset.labels.tolist() == [1, 0]


def test_row_is_the_line_of_the_file(tmp_path: Path) -> None:
    with pytest.raises(ContractViolation, match=r"found '-1' in row\(s\) 5 \(1 of 3 rows\)"):
        read(tmp_path, "age,ill\n1,yes\n\n2,no\n-1,no\n")


def test_options_of_european_exports(tmp_path: Path) -> None:
    text = 'age;ill;"Größe"\n1,5;yes;x\n2;no;y\n'.encode("latin-1")
    dataset = read(tmp_path, text, delimiter=";", decimal=",", encoding="latin-1")
    assert dataset.features.tolist() == [[1.5], [2.0]]
    assert dataset.columns["Größe"].tolist() == ["x", "y"]
    with pytest.raises(ContractViolation, match="column 'age': expected a number of at least 0"):
        read(tmp_path, "age;ill\n1.234,5;yes\n", delimiter=";", decimal=",")


def test_missing_values_are_named(tmp_path: Path) -> None:
    with pytest.raises(ContractViolation, match=r"found '\?'"):
        read(tmp_path, "age,ill\n?,yes\n2,no\n")
    with pytest.raises(ContractViolation, match="found no value"):
        read(tmp_path, "age,ill\n?,yes\n2,no\n", missing_values=("?",))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "No columns"),
        ("age,ill\n1,yes,7\n2,no,8\n", "Expected 2 fields in line 2, saw 3"),
        ("age,ill\n1,caf\u00e9\n".encode("latin-1"), "utf-8"),
        ("age,age,ill\n1,2,yes\n", "more than one column is named 'age'"),
        ("age,ill\n", "0 examples"),
        ("age,ill\n1\n", "column 'ill'.*no value"),
        (b"age,ill\n1,\x00yes\n", "column 'ill'"),
    ],
)
def test_broken_files_are_refused(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(tmp_path, text)


def test_settings_are_checked(tmp_path: Path) -> None:
    with pytest.raises(DataUnavailable, match=r"does not exist\. Check the path\.$"):
        ADAPTERS["csv"](Source(path=tmp_path / "absent.csv"), CONTRACT)
    with pytest.raises(DataUnavailable, match="it starts at the current folder"):
        ADAPTERS["csv"](Source(path=Path("absent.csv")), CONTRACT)
    with pytest.raises(DataUnavailable, match="is a folder"):
        ADAPTERS["csv"](Source(path=tmp_path), CONTRACT)
    with pytest.raises(SettingsError, match="needs a path"):
        ADAPTERS["csv"](Source(), CONTRACT)
    with pytest.raises(SettingsError, match="Did you mean 'delimiter'"):
        read(tmp_path, "age,ill\n1,yes\n", delimeter=";")
    with pytest.raises(ContractViolation, match="reads tables"):
        ADAPTERS["csv"](
            Source(path=tmp_path), ImageContract(kind="image", channels=1, height=8, width=8, classes=("a", "b"))
        )


@pytest.mark.needs_data
def test_real_credit_data(real_data: Path) -> None:
    path = real_data / "credit_default_taiwan" / "UCI_Credit_Card.csv"
    contract = TableContract(
        kind="table",
        label="default.payment.next.month",
        classes=("0", "1"),
        columns=(
            Column(name="AGE", type="int", minimum=18, maximum=120),
            Column(name="SEX", type="category", categories=("1", "2")),
            Column(name="BILL_AMT1"),
        ),
    )
    dataset = ADAPTERS["csv"](Source(path=path), contract)
    oracle = np.loadtxt(path, delimiter=",", skiprows=1, usecols=(5, 2, 12, 24))
    assert np.array_equal(dataset.features[:, 0], oracle[:, 0])
    assert np.array_equal(dataset.features[:, 1], oracle[:, 1] == 1)
    assert np.array_equal(dataset.features[:, 3], oracle[:, 2].astype(np.float32))
    assert np.array_equal(dataset.labels, oracle[:, 3])
    assert {"AGE", "EDUCATION"} <= set(dataset.columns)
    assert "ID" not in dataset.columns


def test_a_column_that_the_study_needs_is_returned(tmp_path: Path) -> None:
    rows = "".join(f"1,no,p{number}\n" for number in range(1_100))
    path = tmp_path / "patients.csv"
    path.write_text("age,ill,patient\n" + rows)
    assert "patient" not in ADAPTERS["csv"](Source(path=path), CONTRACT).columns
    dataset = ADAPTERS["csv"](Source(path=path, columns=("patient",)), CONTRACT)
    assert dataset.columns["patient"][-1] == "p1099"
