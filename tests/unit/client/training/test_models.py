"""Every model as a flat vector, and the gradient of each example where private training may ask for it."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from hansa_client.training.flat_model import FlatModel
from hansa_client.training.per_example import example_gradients, refuse_unsuitable
from hansa_common.contract import ArrayContract, Column, ImageContract, TableContract
from hansa_common.models import ARCHITECTURES
from hansa_common.models.registry import Contract

CPU = torch.device("cpu")
_CLASSES = ("a", "b", "c")
ARRAY = ArrayContract(kind="array", shape=(8, 2), classes=_CLASSES)
TOKENS = ArrayContract(kind="array", shape=(6,), classes=_CLASSES, minimum=0.0, maximum=4.0)
IMAGE = ImageContract(kind="image", channels=1, height=8, width=8, classes=_CLASSES)
TABLE = TableContract(kind="table", label="y", classes=_CLASSES, columns=(Column(name="x"), Column(name="w")))
LARGE = ImageContract(kind="image", channels=1, height=18, width=18, classes=_CLASSES)

CASES: dict[str, tuple[str, dict[str, Any], Contract]] = {
    "cnn": ("cnn", {"filters": (3, 4, 4), "dense": 5}, LARGE),
    "cnn1d": ("cnn1d", {"filters": (3, 4), "kernel": 3, "dense": 5}, ARRAY),
    "cox": ("cox", {}, ARRAY),
    "gru": ("gru", {"hidden": 4, "layers": 2, "bidirectional": True}, ARRAY),
    "gru-tokens": ("gru", {"hidden": 4, "vocabulary": 5, "embedding": 3}, TOKENS),
    "lenet": ("lenet", {}, LARGE),
    "linear": ("linear", {}, ARRAY),
    "logistic": ("logistic", {}, ARRAY),
    "lstm": ("lstm", {"hidden": 4}, ARRAY),
    "mlp": ("mlp", {"hidden": (5,)}, ARRAY),
    "resnet": ("resnet", {"depth": 8}, IMAGE),
    "resnet-batch": ("resnet", {"depth": 8, "normalisation": "batch"}, IMAGE),
    "transformer": ("transformer", {"width": 8, "heads": 2, "feedforward": 9}, ARRAY),
    "transformer-table": ("transformer", {"width": 8, "heads": 2, "feedforward": 9}, TABLE),
    "transformer-tokens": ("transformer", {"width": 8, "heads": 2, "feedforward": 9, "vocabulary": 5}, TOKENS),
    "vae": ("vae", {"hidden": (5,), "latent": 2}, ARRAY),
}
PRIVATE = sorted(
    case
    for case, (name, options, _) in CASES.items()
    if not ARCHITECTURES.find(name).unsuited_to_privacy(ARCHITECTURES.find(name).options(**options))
)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def build(case: str) -> torch.nn.Module:
    name, options, contract = CASES[case]
    architecture = ARCHITECTURES.find(name)
    torch.manual_seed(1)
    return architecture.build(architecture.options(**options), contract)


def inputs_of(case: str, count: int) -> Tensor:
    contract = CASES[case][2]
    generator = torch.Generator().manual_seed(2)
    if contract is TOKENS:
        return torch.randint(5, (count, *contract.feature_shape), generator=generator).float()
    return torch.rand(count, *contract.feature_shape, generator=generator)


def test_every_model_is_tried_here() -> None:
    assert {name for name, _, _ in CASES.values()} == set(ARCHITECTURES)


@pytest.mark.parametrize("case", CASES)
def test_a_flat_model_answers_and_differentiates_as_the_module_does(case: str) -> None:
    module, inputs = build(case).eval(), inputs_of(case, 3)
    answers = module(inputs)
    gradients = torch.autograd.grad(answers.square().sum(), list(module.parameters()))
    vector = torch.cat([each.detach().reshape(-1) for each in module.parameters()])
    vector = torch.cat([vector, *(each.reshape(-1) for each in module.buffers() if each.is_floating_point())])

    flat = FlatModel(build(case).eval(), CPU)
    flat.load(np.zeros(flat.spec.size, dtype=np.float32))
    assert not torch.equal(flat.module(inputs), answers) or not answers.any()
    flat.load(vector.numpy())
    torch.testing.assert_close(flat.module(inputs), answers)
    flat.module(inputs).square().sum().backward()
    torch.testing.assert_close(flat.gradient, torch.cat([each.reshape(-1) for each in gradients]))


@pytest.mark.parametrize("case", PRIVATE)
def test_opacus_gives_each_examples_own_gradient(case: str) -> None:
    module, inputs, labels = build(case), inputs_of(case, 3), torch.tensor([0, 2, 1])

    def loss(start: int, stop: int) -> Tensor:
        answers = module(inputs[start:stop])
        if answers.shape[1] == 1:
            squares: Tensor = answers.square().sum()
            return squares
        total: Tensor = functional.cross_entropy(answers, labels[start:stop], reduction="sum")
        return total

    refuse_unsuitable(module, inputs[:2])
    module.train()
    alone = [torch.autograd.grad(loss(each, each + 1), list(module.parameters())) for each in range(3)]
    with example_gradients(module) as differentiate:
        together = differentiate(loss(0, 3))
    for number, part in enumerate(together):
        expected = torch.stack([gradients[number] for gradients in alone])
        torch.testing.assert_close(part, expected, rtol=1e-4, atol=1e-5)


def test_which_models_are_not_for_private_training() -> None:
    refused = set(CASES) - set(PRIVATE)
    assert refused == {"cox", "gru", "gru-tokens", "lstm", "resnet-batch", "vae"}
