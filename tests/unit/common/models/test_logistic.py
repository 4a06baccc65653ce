from typing import Any

import pytest
import torch
from torch.nn import functional as f

from hansa_common.contract import ArrayContract, Column, ImageContract, TableContract
from hansa_common.models import ARCHITECTURES
from hansa_common.models.logistic import LogisticOptions, build, check
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


def _binary(**options: Any) -> Any:
    contract = TableContract(kind="table", label="y", classes=("a", "b"), columns=(Column(name="x"), Column(name="w")))
    return build(LogisticOptions(**options), contract)


def test_one_sigmoid_output_is_binary_cross_entropy() -> None:
    """Oracle: PyTorch's binary cross-entropy of w x + b, loss and gradient."""
    model = _binary(outputs="sigmoid")
    weight, bias = torch.tensor([[1.5, -0.5]]), torch.tensor([0.25])
    model.load_state_dict({"linear.weight": weight, "linear.bias": bias})
    inputs, labels = torch.tensor([[1.0, 2.0], [-1.0, 0.5], [0.0, 3.0]]), torch.tensor([1, 0, 0])
    assert model(inputs).shape == (3, 2)
    loss = f.cross_entropy(model(inputs), labels)
    own, offset = weight.clone().requires_grad_(), bias.clone().requires_grad_()
    expected = f.binary_cross_entropy_with_logits((inputs @ own.T + offset)[:, 0], labels.float())
    torch.testing.assert_close(loss, expected)
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    torch.testing.assert_close(gradients, torch.autograd.grad(expected, [own, offset]))


def test_two_softmax_outputs_move_twice_as_far() -> None:
    one, two = _binary(outputs="sigmoid"), _binary()
    inputs, labels = torch.tensor([[1.0, 2.0], [-1.0, 0.5]]), torch.tensor([1, 0])
    steps = [
        torch.autograd.grad(f.cross_entropy(model(inputs), labels), model.linear.weight)[0] for model in (one, two)
    ]
    torch.testing.assert_close(steps[1][1:] - steps[1][:1], 2 * steps[0])


def test_it_may_start_as_a_linear_layer_of_pytorch() -> None:
    torch.manual_seed(4)
    model = _binary(initial="uniform")
    torch.manual_seed(4)
    assert torch.equal(model.linear.weight, torch.nn.Linear(2, 2).weight)


def test_one_output_is_for_two_classes() -> None:
    with pytest.raises(ValueError, match="'sigmoid' is for two classes; the contract has 3"):
        check(LogisticOptions(outputs="sigmoid"), _TABLE)
