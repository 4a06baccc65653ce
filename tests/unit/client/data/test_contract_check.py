import numpy as np
import pytest

from hansa_client.data import Dataset
from hansa_client.data.contract_check import check, describe_range
from hansa_common.contract import ArrayContract, Column, ImageContract, TableContract
from hansa_common.errors import ContractViolation

ARRAY = ArrayContract(kind="array", shape=(2,), minimum=0.0, maximum=0.1, classes=("a", "b"), minimum_examples=3)
LABELS = np.array([0, 1, 0])


def dataset(features: object, labels: object = LABELS) -> Dataset:
    return Dataset(features=np.asarray(features, dtype=np.float32), labels=np.asarray(labels), origin="x")


def test_bounds_are_allowed_after_rounding_to_float32() -> None:
    data = dataset([[0.0, 0.1], [0.1, 0.1], [0.0, 0.0]])
    assert check(data, ARRAY) is data


@pytest.mark.parametrize(
    ("features", "labels", "message"),
    [
        ([[0.0, 0.2], [0, 0], [0, 0]], LABELS, r"x: 1 of 3 examples have a value outside 0 to 0\.1"),
        ([[0.0, -1], [0, 0], [-2, 0]], LABELS, r"found -2 to 0 in example\(s\) 1, 3"),
        ([[0, np.inf], [0, 0], [0, 0]], LABELS, "NaN or infinity"),
        ([[0, 0], [0, 0]], LABELS, r"shape \[2, 2\]; expected \[3, 2\]"),
        ([[0, 0], [0, 0]], [0, 1], "2 examples; the study asks for at least 3"),
        ([], np.zeros(0, dtype=np.int64), r"shape \[0\]"),
        (np.zeros((0, 2)), np.zeros(0, dtype=np.int64), "0 examples"),
        ([[0, 0]] * 3, [0, -1, 2], r"2 of 3 labels.*found -1, 2 at example\(s\) 2, 3"),
        ([[0, 0]] * 3, [0.0, 1.0, 1.0], "labels are float64"),
        ([[0, 0]] * 8, [2] * 8, r"1, 2, 3, 4, 5, \.\.\."),
    ],
)
def test_what_breaks_the_contract_is_refused(features: object, labels: object, message: str) -> None:
    with pytest.raises(ContractViolation, match=message):
        check(dataset(features, labels), ARRAY)


def test_dtype_is_checked() -> None:
    contract = ImageContract(kind="image", channels=2, height=1, width=1, classes=("a", "b"), minimum_examples=1)
    with pytest.raises(ContractViolation, match="features are float32; the study's images are uint8"):
        check(dataset(np.zeros((3, 1, 1, 2))), contract)
    with pytest.raises(ContractViolation, match="features are uint8; the study's arrays are float32"):
        check(Dataset(features=np.zeros((3, 2), dtype=np.uint8), labels=LABELS), ARRAY)


def test_table_columns_have_their_own_ranges() -> None:
    columns = (Column(name="sex", type="category", categories=("m", "f")), Column(name="age", minimum=5))
    contract = TableContract(kind="table", label="y", classes=("a", "b"), columns=columns, minimum_examples=1)
    check(dataset([[0, 1, 5]] * 3), contract)
    with pytest.raises(ContractViolation, match="column 'age' outside at least 5: found 4 to 4"):
        check(dataset([[0, 1, 5], [0, 1, 4], [1, 0, 6]]), contract)


def test_ranges_in_words() -> None:
    assert [describe_range(*bounds) for bounds in [(None, None), (1, None), (None, 2), (1, 2)]] == [
        "", "at least 1", "at most 2", "1 to 2",
    ]  # fmt: skip
