import pytest
import torch

from hansa_common.contract import ArrayContract, Column, ImageContract, TableContract
from hansa_common.models import ARCHITECTURES
from hansa_common.models.logistic import LogisticOptions, build
from hansa_common.models.registry import Contract

_CLASSES = ("a", "b", "c")
_TABLE = TableContract(
    kind="table",
    label="y",
    classes=_CLASSES,
    columns=(Column(name="x"), Column(name="w", type="category", categories=("u", "v"))),
)


@pytest.mark.parametrize(
    ("contract", "features"),
    [
        (_TABLE, 3),
        (ArrayContract(kind="array", shape=(4, 5), classes=_CLASSES), 20),
        (ImageContract(kind="image", channels=3, height=8, width=4, classes=_CLASSES), 96),
    ],
)
def test_one_linear_layer_of_zeros_over_all_features(contract: Contract, features: int) -> None:
    model = build(LogisticOptions(), contract)
    assert {name: tuple(parameter.shape) for name, parameter in model.named_parameters()} == {
        "linear.weight": (3, features),
        "linear.bias": (3,),
    }
    assert not any(parameter.any() for parameter in model.parameters())
    logits = model(torch.ones(7, *contract.feature_shape))
    assert logits.shape == (7, 3)
    assert torch.equal(logits.softmax(dim=1), torch.full((7, 3), 1 / 3))


def test_it_computes_w_x_plus_b() -> None:
    model = build(LogisticOptions(), _TABLE)
    weight, bias = torch.arange(9.0).reshape(3, 3), torch.tensor([1.0, 2.0, 3.0])
    model.load_state_dict({"linear.weight": weight, "linear.bias": bias})
    assert model(torch.tensor([[1.0, 0.0, 2.0]])).tolist() == [[5.0, 15.0, 25.0]]


def test_a_plan_finds_it_for_every_kind_of_data() -> None:
    assert ARCHITECTURES.find("logistic").accepts == {"image", "array", "table"}
