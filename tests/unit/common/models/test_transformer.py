from typing import Any

import pytest
import torch
from tests.unit.common.models.model_checks import (
    array,
    assert_the_gradient_reaches_all,
    assert_the_seed_decides,
    fit,
    size,
    table,
)
from torch import Tensor
from torch.nn import functional

from hansa_common.models.transformer import TransformerOptions, build, check

SMALL = TransformerOptions(width=8, layers=2, heads=2, feedforward=12)
BLOCK = 4 * (8 * 8 + 8) + 2 * 2 * 8 + (8 * 12 + 12) + (12 * 8 + 8)
REST = 2 * 8 + 8 * 3 + 3  # last normalisation and output


@pytest.mark.parametrize(
    ("contract", "vocabulary", "tokens"),
    [
        (table(5), None, 2 * 5 * 8),
        (array(6, 3), None, 3 * 8 + 8 + 6 * 8),
        (array(6), None, 8 + 8 + 6 * 8),
        (array(6, minimum=0, maximum=9), 10, 10 * 8 + 6 * 8),
    ],
)
def test_how_many_parameters(contract: Any, vocabulary: int | None, tokens: int) -> None:
    network = build(SMALL.model_copy(update={"vocabulary": vocabulary}), contract)
    assert size(network) == tokens + 2 * BLOCK + REST
    assert network(torch.ones(4, *contract.feature_shape)).shape == (4, 3)


def _oracle(tokens: Tensor, weights: dict[str, Tensor]) -> Tensor:
    """Vaswani et al., equation 1, one example and one head at a time; normalisation first."""

    def linear(values: Tensor, name: str) -> Tensor:
        return values @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(values: Tensor, name: str) -> Tensor:
        centred = values - values.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    answers = []
    for example in tokens:
        values = example
        for block in ("blocks.0", "blocks.1"):
            normed = norm(values, f"{block}.norm1")
            q, k, v = (linear(normed, f"{block}.attention.{name}") for name in ("query", "key", "value"))
            heads = [
                torch.softmax(q[:, part] @ k[:, part].T / 2, dim=1) @ v[:, part]  # sqrt(4) values a head
                for part in (slice(0, 4), slice(4, 8))
            ]
            values = values + linear(torch.cat(heads, 1), f"{block}.attention.output")
            inner = linear(norm(values, f"{block}.norm2"), f"{block}.dense1")
            inner = inner * 0.5 * (1 + torch.erf(inner / 2**0.5))
            values = values + linear(inner, f"{block}.dense2")
        answers.append(linear(norm(values, "norm").mean(0), "output"))
    return torch.stack(answers)


def test_it_computes_the_papers_equations() -> None:
    torch.manual_seed(1)
    for contract, vocabulary in ((table(5), None), (array(6, 3), None), (array(6, minimum=0, maximum=9), 10)):
        network = build(SMALL.model_copy(update={"vocabulary": vocabulary}), contract)
        inputs = torch.randint(10, (4, 6)).float() if vocabulary else torch.randn(4, *contract.feature_shape)
        weights = {name: each.detach() for name, each in network.named_parameters()}
        for name, weight in weights.items():
            if "norm" in name:
                weight.add_(0.1 * torch.randn_like(weight))
        if contract.kind == "table":
            tokens = inputs[:, :, None] * weights["tokens.weight"] + weights["tokens.bias"]
        elif vocabulary:
            tokens = weights["tokens.tokens.embedding.weight"][inputs.long()] + weights["tokens.positions.weight"]
        else:
            projection = "tokens.tokens.projection"
            tokens = inputs @ weights[f"{projection}.weight"].T + weights[f"{projection}.bias"]
            tokens = tokens + weights["tokens.positions.weight"]
        torch.testing.assert_close(network(inputs), _oracle(tokens, weights), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "contract", "message"),
    [
        ({"width": 10, "heads": 4}, table(5), "width: found 10; allowed is a multiple of heads, which is 4"),
        ({"vocabulary": 5}, table(5), "token ids are an array"),
        ({"vocabulary": 5}, array(6), "data.maximum = 4"),
        ({}, array(2, 3, 4), "data.shape"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, Any], contract: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check(TransformerOptions(**options), contract)
    check(TransformerOptions(), table(5))


def test_the_gradient_reaches_every_parameter_but_the_keys_biases_and_the_seed_decides() -> None:
    """A key's bias adds the same to all scores of a query, and softmax takes it away."""
    torch.manual_seed(1)
    network = build(SMALL, array(6, 3))
    loss = functional.cross_entropy(network(torch.randn(16, 6, 3)), torch.arange(16) % 3)
    assert_the_gradient_reaches_all(network, loss)
    key = network.get_parameter("blocks.0.attention.key.bias").grad
    assert key is not None
    assert float(key.abs().max()) < 1e-6
    assert_the_seed_decides(lambda: build(SMALL, table(5)))


def test_dropout_is_for_training_only() -> None:
    network, inputs = build(SMALL.model_copy(update={"dropout": 0.5}), table(5)), torch.randn(3, 5)
    assert not torch.equal(network(inputs), network(inputs))
    network.eval()
    assert torch.equal(network(inputs), network(inputs))


@pytest.mark.slow
def test_it_learns_which_token_comes_before_which() -> None:
    """Two tokens among fillers: only their order tells the class, which a bag of tokens cannot see."""
    generator = torch.Generator().manual_seed(1)
    inputs, labels = torch.zeros(64, 6), torch.arange(64) % 2
    for row, label in zip(inputs, labels, strict=True):
        early, late = sorted(torch.randperm(6, generator=generator)[:2].tolist())
        row[early], row[late] = (1.0, 2.0) if label else (2.0, 1.0)
    torch.manual_seed(1)
    options = TransformerOptions(width=16, layers=1, heads=2, feedforward=32, vocabulary=3)
    network = build(options, array(6, classes=2, minimum=0, maximum=2))
    loss = fit(network.parameters(), lambda: functional.cross_entropy(network(inputs), labels), steps=100, rate=0.01)
    assert loss < 0.1  # guessing gives 0.69
