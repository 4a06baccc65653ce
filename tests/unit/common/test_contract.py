from typing import Any

import pytest
from pydantic import ValidationError

from hansa_common.contract import (
    ArrayContract,
    Column,
    ImageContract,
    NumberTarget,
    ReconstructionTarget,
    SurvivalTarget,
    TableContract,
    feature_count,
    label_names,
    outputs,
)

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


NUMBER = NumberTarget(kind="number")
SURVIVAL = SurvivalTarget(kind="survival", time="months", event="died")
UNUSUAL = ReconstructionTarget(kind="reconstruction", anomaly="fault")


def test_a_model_has_as_many_outputs_as_the_target_asks_for() -> None:
    arrays = {"kind": "array", "shape": (2, 5)}
    contracts = [
        ArrayContract(kind="array", shape=(2, 5), classes=("a", "b", "c")),
        *(ArrayContract(kind="array", shape=(2, 5), target=target) for target in (NUMBER, SURVIVAL, UNUSUAL)),
    ]
    assert [outputs(contract) for contract in contracts] == [3, 1, 1, 10]
    assert [len(label_names(contract)) for contract in contracts] == [3, 1, 2, 2]
    assert ArrayContract.model_validate(arrays | {"target": {"kind": "number"}}).target == NUMBER


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ({}, "classes: found 0; allowed is at least 2"),
        ({"classes": ("a",)}, "classes: found 1"),
        ({"classes": ("a", "b"), "target": NUMBER}, "leave one of the two out"),
    ],
)
def test_a_contract_says_what_is_learned_once(values: dict[str, Any], found: str) -> None:
    with pytest.raises(ValidationError, match=found):
        ArrayContract(kind="array", shape=(2,), **values)


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ({"target": NUMBER}, "label: this key is required and missing"),
        ({"target": SURVIVAL, "label": "y"}, "label: the target names its own columns"),
        ({"target": SurvivalTarget(kind="survival", time="age", event="died")}, "'age' is a feature column too"),
        ({"target": ReconstructionTarget(kind="reconstruction", anomaly="age")}, "'age' is a feature column too"),
    ],
)
def test_a_table_s_target_is_no_feature(values: dict[str, Any], found: str) -> None:
    with pytest.raises(ValidationError, match=found):
        TableContract(kind="table", columns=(Column(name="age"),), **values)


def test_a_target_that_contradicts_itself_is_refused() -> None:
    with pytest.raises(ValidationError, match="each needs a column of its own"):
        SurvivalTarget(kind="survival", time="t", event="t")
    with pytest.raises(ValidationError, match="named twice among normal and anomalous"):
        ReconstructionTarget(kind="reconstruction", anomaly="f", normal=("0",), anomalous=("0",))
    with pytest.raises(ValidationError, match="minimum 2 is not below maximum 1"):
        NumberTarget(kind="number", minimum=2.0, maximum=1.0)
