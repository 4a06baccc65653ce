from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hansa_client.data.contract_check import check
from hansa_client.data.table import to_dataset
from hansa_common.contract import Column, TableContract
from hansa_common.errors import ContractViolation


def contract(*columns: Column, classes: tuple[str, ...] = ("no", "yes")) -> TableContract:
    return TableContract(kind="table", label="ill", classes=classes, columns=columns, minimum_examples=1)


def read(frame: dict[str, list[Any]], *columns: Column, classes: tuple[str, ...] = ("no", "yes")) -> Any:
    table = pd.DataFrame(frame)
    table.index = table.index + 2
    return to_dataset(table, contract(*columns, classes=classes), origin="x.csv", counting="the header is row 1")


AGE = Column(name="age", minimum=0, maximum=120)
SEX = Column(name="sex", type="category", categories=("m", "f"))


def test_columns_come_in_the_contracts_order_with_one_hot_categories() -> None:
    dataset = read({"ill": ["yes", "no"], "sex": ["f", "m"], "other": ["a", "b"], "age": ["30", "41.5"]}, AGE, SEX)
    assert dataset.features.dtype == np.float32
    assert dataset.features.tolist() == [[30.0, 0.0, 1.0], [41.5, 1.0, 0.0]]
    assert dataset.labels.tolist() == [1, 0]


def test_message_names_column_rows_found_and_expected() -> None:
    ages = ["30"] * 10 + ["-1", "abc", "121"]
    with pytest.raises(ContractViolation) as caught:
        read({"age": ages, "ill": ["yes"] * 12 + ["maybe"]}, AGE)
    lines = caught.value.message.splitlines()
    assert lines[0] == "x.csv does not fulfil the data contract (rows are counted as in the file, the header is row 1):"
    assert lines[1] == (
        "column 'age': expected a number of 0 to 120; found '-1', 'abc', '121' in row(s) 12, 13, 14 (3 of 13 rows)."
    )
    assert lines[2] == "column 'ill': expected one of 'no', 'yes'; found 'maybe' in row(s) 14 (1 of 13 rows)."


@pytest.mark.parametrize("value", ["inf", "-inf", "1e300", "nan?", "1,5", "0x1g"])
def test_what_is_no_finite_number_is_refused(value: str) -> None:
    with pytest.raises(ContractViolation, match="expected a number"):
        read({"age": ["1", value], "ill": ["no", "no"]}, Column(name="age"))


def test_dates_are_no_numbers() -> None:
    with pytest.raises(ContractViolation, match="expected a number"):
        read({"age": [pd.Timestamp("2020-01-01")], "ill": ["no"]}, Column(name="age"))


def test_int_column_refuses_fractions() -> None:
    column = Column(name="age", type="int")
    assert read({"age": ["7", "8.0"], "ill": ["no", "no"]}, column).features.tolist() == [[7.0], [8.0]]
    with pytest.raises(ContractViolation, match=r"a whole number; found '7.5' in row\(s\) 2 \(1 of 2"):
        read({"age": ["7.5", "8.0"], "ill": ["no", "no"]}, column)


def test_unknown_category_is_refused_and_whole_numbers_need_no_decimals() -> None:
    column = Column(name="pain", type="category", categories=("1", "2"))
    assert read({"pain": ["1.0", "2"], "ill": ["no", "no"]}, column).features.tolist() == [[1, 0], [0, 1]]
    assert read({"pain": [1.0, 2.0], "ill": ["no", "no"]}, column).features.tolist() == [[1, 0], [0, 1]]
    with pytest.raises(ContractViolation, match=r"expected one of '1', '2'; found '1\.5'"):
        read({"pain": ["1.5", "2"], "ill": ["no", "no"]}, column)


@pytest.mark.parametrize("values", [["1", None, "3"], [1.0, float("nan"), 3.0]])
def test_missing_is_refused_or_dropped(values: list[Any]) -> None:
    with pytest.raises(ContractViolation, match=r"found no value in row\(s\) 3 \(1 of 3 rows\)"):
        read({"age": values, "ill": ["no", "no", "yes"]}, Column(name="age"))
    dataset = read({"age": values, "ill": ["no", "no", "yes"]}, Column(name="age", missing="drop"))
    assert dataset.features.tolist() == [[1.0], [3.0]]
    assert dataset.labels.tolist() == [0, 1]
    assert "1 of 3 rows left out" in dataset.origin


def test_dropped_rows_may_hold_other_faults_and_rows_keep_their_numbers() -> None:
    columns = (Column(name="age", missing="drop"), Column(name="weight", minimum=0))
    read({"age": [None, "2"], "weight": ["-5", "5"], "ill": ["no", "no"]}, *columns)
    with pytest.raises(ContractViolation, match=r"row\(s\) 3 \("):
        read({"age": [None, "2"], "weight": ["5", "-5"], "ill": ["no", "no"]}, *columns)


def test_missing_label_is_refused() -> None:
    with pytest.raises(ContractViolation, match=r"column 'ill'.*no value"):
        read({"age": ["1"], "ill": [None]}, Column(name="age"))


def test_missing_column_gets_a_close_name() -> None:
    with pytest.raises(ContractViolation, match=r"column 'age' is missing\. Did you mean 'Age'") as caught:
        read({"Age": ["1"], "ill": ["no"]}, AGE)
    assert caught.value.advice.endswith("the file has: Age, ill.")


def test_doubled_column_is_refused() -> None:
    frame = pd.DataFrame([["1", "2", "no"]], columns=["age", "age", "ill"])
    with pytest.raises(ContractViolation, match="more than one column is named 'age'"):
        to_dataset(frame, contract(AGE), origin="x", counting="from 1")


def test_columns_to_split_by_are_names_and_whole_numbers_with_few_values() -> None:
    count = 1_200
    frame: dict[str, list[Any]] = {
        "age": list(range(count)),
        "hospital": ["north ", "south"] * (count // 2),
        "year": [2020.0, float("nan")] * (count // 2),
        "ratio": [0.5, 1.0] * (count // 2),
        "note": ["x" * 65] * count,
        "ill": ["no"] * count,
    }
    dataset = read(frame, Column(name="age"))
    assert set(dataset.columns) == {"hospital", "year", "ill"}
    assert dataset.columns["hospital"][:2].tolist() == ["north", "south"]
    assert dataset.columns["year"][:2].tolist() == ["2020", ""]


@pytest.mark.slow
@given(
    ages=st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=20),
    data=st.data(),
    texts=st.booleans(),
)
def test_numbers_survive_text_exactly(ages: list[float], data: st.DataObject, texts: bool) -> None:
    labels = data.draw(st.lists(st.sampled_from(["no", "yes"]), min_size=len(ages), max_size=len(ages)))
    values: list[Any] = [repr(age) for age in ages] if texts else list(ages)
    dataset = read({"age": values, "ill": labels}, Column(name="age"))
    assert np.array_equal(dataset.features[:, 0], np.asarray(ages, dtype=np.float32))
    assert [("no", "yes")[label] for label in dataset.labels] == labels


def test_a_column_that_is_asked_for_comes_whatever_its_values_are() -> None:
    count = 1_500  # more than a column to split by may have
    frame = pd.DataFrame({"age": "1", "ill": "no", "patient": [f"{number:>70}" for number in range(count)]})
    asked = contract(Column(name="age"))
    assert set(to_dataset(frame, asked, origin="", counting="").columns) == {"age", "ill"}
    dataset = to_dataset(frame, asked, origin="", counting="", columns=("patient", "absent"))
    assert set(dataset.columns) == {"age", "ill", "patient"}
    assert dataset.columns["patient"].tolist() == [str(number) for number in range(count)]


def test_whose_a_row_is_is_read_alike_from_numbers_and_texts() -> None:
    asked = contract(Column(name="age", missing="drop"))
    for ids in (["7", "8 ", " 7", ""], [7.0, 8.0, 7.0, None], ["7.0", "8", "7", None]):
        frame = pd.DataFrame({"age": ["1", "2", "3", None], "ill": "no", "patient": ids})
        dataset = to_dataset(frame, asked, origin="", counting="", columns=("patient",))
        assert dataset.columns["patient"].tolist() == ["7", "8", "7"]  # the dropped row is gone here too


def test_a_value_that_is_filled_in_later_may_be_missing_and_nothing_else() -> None:
    table = TableContract(
        kind="table",
        label="y",
        classes=("a", "b"),
        columns=(Column(name="x", missing="fill", maximum=9.0),),
        minimum_examples=1,
    )
    frame = pd.DataFrame({"x": ["1", np.nan], "y": ["a", "b"]}, index=[2, 3])
    dataset = to_dataset(frame, table, origin="t.csv", counting="the header is row 1")
    assert np.isnan(dataset.features).tolist() == [[False], [True]]
    assert check(dataset, table) is not None
    with pytest.raises(ContractViolation, match="found 'old' in row"):
        to_dataset(frame.assign(x=["old", np.nan]), table, origin="t.csv", counting="the header is row 1")
    with pytest.raises(ContractViolation, match="NaN or infinity"):
        check(dataset, table.model_copy(update={"columns": (Column(name="x"),)}))
