import pytest
from pydantic import ValidationError

from hansa_common.contract import ArrayContract, Column, ImageContract, TableContract, feature_count

_CATEGORY = Column(name="ward", type="category", categories=("a", "b", "c"))


def test_an_image_is_given_to_the_model_with_channels_first() -> None:
    contract = ImageContract(kind="image", channels=3, height=32, width=16, classes=("a", "b"))
    assert contract.feature_shape == (3, 32, 16)
    assert feature_count(contract) == 1_536


def test_an_array_keeps_its_shape() -> None:
    contract = ArrayContract(kind="array", shape=(2, 5), classes=("a", "b"))
    assert contract.feature_shape == (2, 5)
    assert feature_count(contract) == 10


def test_a_category_becomes_one_feature_for_each_value() -> None:
    columns = (Column(name="age"), _CATEGORY, Column(name="sex", type="int"))
    contract = TableContract(kind="table", label="y", columns=columns, classes=("a", "b"))
    assert [column.width for column in columns] == [1, 3, 1]
    assert contract.feature_shape == (5,)


def test_a_label_is_no_feature() -> None:
    with pytest.raises(ValidationError, match="cannot predict itself"):
        TableContract(kind="table", label="ward", columns=(_CATEGORY,), classes=("a", "b"))


def test_a_range_may_be_open_on_one_side() -> None:
    assert Column(name="age", minimum=0.0).maximum is None
    with pytest.raises(ValidationError, match="minimum 5 is not below maximum 5"):
        Column(name="age", minimum=5.0, maximum=5.0)
