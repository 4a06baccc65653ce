import json
import math
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from hansa_common.contract import ArrayContract, Column, ImageContract, TableContract
from hansa_common.models import ARCHITECTURES
from hansa_common.models.mlp import MLPOptions, build
from hansa_common.models.registry import Contract

_CLASSES = ("a", "b", "c")
_TABLE = TableContract(kind="table", label="y", classes=_CLASSES, columns=(Column(name="x"), Column(name="w")))
_ARRAY = ArrayContract(kind="array", shape=(4, 5), classes=_CLASSES)
_IMAGE = ImageContract(kind="image", channels=3, height=8, width=4, classes=_CLASSES)


@pytest.mark.parametrize(("contract", "features"), [(_TABLE, 2), (_ARRAY, 20), (_IMAGE, 96)])
def test_its_layers_over_all_features(contract: Contract, features: int) -> None:
    model = build(MLPOptions(hidden=(7, 5)), contract)
    assert {name: tuple(parameter.shape) for name, parameter in model.named_parameters()} == {
        "dense1.weight": (7, features),
        "dense1.bias": (7,),
        "dense2.weight": (5, 7),
        "dense2.bias": (5,),
        "dense3.weight": (3, 5),
        "dense3.bias": (3,),
    }
    assert model(torch.ones(6, *contract.feature_shape)).shape == (6, 3)


@pytest.mark.parametrize(("activation", "function"), [("relu", torch.relu), ("tanh", torch.tanh)])
def test_it_computes_the_layers_one_after_the_other(activation: Any, function: Any) -> None:
    torch.manual_seed(1)
    model = build(MLPOptions(hidden=(7, 5), activation=activation), _ARRAY)
    weights = dict(model.named_parameters())
    weights["dense1.bias"].data.normal_()
    values = torch.randn(6, 4, 5)
    expected = values.reshape(6, 20)
    for number in (1, 2, 3):
        expected = expected @ weights[f"dense{number}.weight"].T + weights[f"dense{number}.bias"]
        expected = function(expected) if number < 3 else expected
    torch.testing.assert_close(model(values), expected)


def test_weights_are_glorot_uniform_and_biases_zero() -> None:
    torch.manual_seed(1)
    for name, parameter in build(MLPOptions(hidden=(200, 100)), _IMAGE).named_parameters():
        if name.endswith("bias"):
            assert not parameter.any()
            continue
        bound = math.sqrt(6 / (parameter.shape[0] + parameter.shape[1]))  # Glorot and Bengio, equation 16
        values = parameter.detach()
        assert 0.95 * bound < float(values.abs().max()) <= bound
        assert float(values.std()) == pytest.approx(bound / math.sqrt(3), rel=0.1)


@pytest.mark.parametrize(
    "options", [{"hidden": []}, {"hidden": [0]}, {"hidden": [5] * 17}, {"activation": "gelu"}, {"width": 5}]
)
def test_options_that_make_no_network_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        MLPOptions.model_validate_json(json.dumps(options))


def test_a_plan_finds_it_for_every_kind_of_data() -> None:
    architecture = ARCHITECTURES.find("mlp")
    assert architecture.accepts == {"image", "array", "table"}
    assert architecture.options is MLPOptions
