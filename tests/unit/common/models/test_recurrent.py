"""Oracles: the cells' equations, written out step by step with the network's own weights."""

import json
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from tests.unit.common.models.model_checks import (
    array,
    assert_the_gradient_reaches_all,
    assert_the_seed_decides,
    fit,
    shapes,
    size,
)
from torch import Tensor, nn
from torch.nn import functional

from hansa_common.models import ARCHITECTURES
from hansa_common.models.gru import GRUOptions
from hansa_common.models.gru import build as build_gru
from hansa_common.models.lstm import LSTMOptions
from hansa_common.models.lstm import build as build_lstm
from hansa_common.models.recurrent import check

Weights = dict[str, Tensor]


def weights_of(module: nn.Module) -> Weights:
    return {name: parameter.detach() for name, parameter in module.named_parameters()}


def gru_states(inputs: Tensor, weights: Weights, suffix: str) -> list[Tensor]:
    """Cho et al. 2014 with the reset gate after the recurrent product, as PyTorch documents it."""
    hidden = weights[f"recurrent.weight_hh_{suffix}"].shape[1]
    state, states = torch.zeros(len(inputs), hidden), []
    for step in inputs.unbind(1):
        own = step @ weights[f"recurrent.weight_ih_{suffix}"].T + weights[f"recurrent.bias_ih_{suffix}"]
        kept = state @ weights[f"recurrent.weight_hh_{suffix}"].T + weights[f"recurrent.bias_hh_{suffix}"]
        (r1, z1, n1), (r2, z2, n2) = own.chunk(3, 1), kept.chunk(3, 1)
        reset, update = torch.sigmoid(r1 + r2), torch.sigmoid(z1 + z2)
        state = (1 - update) * torch.tanh(n1 + reset * n2) + update * state
        states.append(state)
    return states


def lstm_states(inputs: Tensor, weights: Weights, suffix: str) -> list[Tensor]:
    """Hochreiter and Schmidhuber 1997 with the forget gate of Gers et al. 2000."""
    hidden = weights[f"recurrent.weight_hh_{suffix}"].shape[1]
    state, cell, states = torch.zeros(len(inputs), hidden), torch.zeros(len(inputs), hidden), []
    for step in inputs.unbind(1):
        sums = step @ weights[f"recurrent.weight_ih_{suffix}"].T + weights[f"recurrent.bias_ih_{suffix}"]
        sums = sums + state @ weights[f"recurrent.weight_hh_{suffix}"].T + weights[f"recurrent.bias_hh_{suffix}"]
        i, f, g, o = sums.chunk(4, 1)
        cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
        state = torch.sigmoid(o) * torch.tanh(cell)
        states.append(state)
    return states


STATES = {"gru": gru_states, "lstm": lstm_states}


def network(cell: str, **options: Any) -> nn.Module:
    torch.manual_seed(1)
    if cell == "gru":
        return build_gru(GRUOptions(hidden=5, **options), array(6, 2))
    return build_lstm(LSTMOptions(hidden=5, **options), array(6, 2))


@pytest.mark.parametrize("cell", ["gru", "lstm"])
@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_it_computes_the_papers_equations(cell: str, pooling: str) -> None:
    module, inputs = network(cell, pooling=pooling), torch.randn(3, 6, 2)
    weights = weights_of(module)
    states = STATES[cell](inputs, weights, "l0")
    pooled = states[-1] if pooling == "last" else torch.stack(states).mean(0)
    torch.testing.assert_close(module(inputs), pooled @ weights["output.weight"].T + weights["output.bias"])


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_two_layers_in_both_directions(cell: str) -> None:
    module, inputs = network(cell, layers=2, bidirectional=True), torch.randn(3, 6, 2)
    weights = weights_of(module)

    def both(values: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """Return each direction's states ``[N, T, H]``, in the order of time."""
        forwards = torch.stack(STATES[cell](values, weights, f"l{layer}"), 1)
        backwards = torch.stack(STATES[cell](values.flip(1), weights, f"l{layer}_reverse"), 1).flip(1)
        return forwards, backwards

    forwards, backwards = both(torch.cat(both(inputs, 0), 2), 1)
    pooled = torch.cat((forwards[:, -1], backwards[:, 0]), 1)  # each direction after its own last step
    torch.testing.assert_close(module(inputs), pooled @ weights["output.weight"].T + weights["output.bias"])


@pytest.mark.parametrize(
    ("cell", "options", "parameters"),
    [
        ("gru", {}, 3 * 5 * (2 + 5 + 2) + 5 * 3 + 3),
        ("lstm", {}, 4 * 5 * (2 + 5 + 2) + 5 * 3 + 3),
        ("lstm", {"layers": 2}, 4 * 5 * (2 + 5 + 2) + 4 * 5 * (5 + 5 + 2) + 5 * 3 + 3),
        ("gru", {"bidirectional": True}, 2 * 3 * 5 * (2 + 5 + 2) + 10 * 3 + 3),
    ],
)
def test_how_many_parameters(cell: str, options: dict[str, Any], parameters: int) -> None:
    assert size(network(cell, **options)) == parameters


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_the_gradient_reaches_every_parameter_and_the_seed_decides(cell: str) -> None:
    module = network(cell, layers=2, bidirectional=True, pooling="mean", dropout=0.1)
    loss = functional.cross_entropy(module(torch.randn(8, 6, 2)), torch.arange(8) % 3)
    assert_the_gradient_reaches_all(module, loss)
    options = {"gru": GRUOptions, "lstm": LSTMOptions}[cell](hidden=4)
    assert_the_seed_decides(lambda: ARCHITECTURES.find(cell).build(options, array(6, 2)))


def test_the_forget_gates_of_an_lstm_start_open() -> None:
    weights = weights_of(network("lstm", layers=2))
    for layer in (0, 1):
        sums = weights[f"recurrent.bias_ih_l{layer}"] + weights[f"recurrent.bias_hh_l{layer}"]
        assert torch.equal(sums[5:10], torch.ones(5))
        assert not torch.equal(sums[:5], torch.ones(5))


def test_dropout_is_for_training_only_and_sits_before_the_output_too() -> None:
    module, inputs = network("gru", dropout=0.5), torch.randn(3, 6, 2)
    assert not torch.equal(module(inputs), module(inputs))
    module.eval()
    assert torch.equal(module(inputs), module(inputs))


def test_an_array_of_steps_has_one_feature() -> None:
    module = build_gru(GRUOptions(hidden=5), array(6))
    inputs = torch.randn(3, 6)
    assert shapes(module)["recurrent.weight_ih_l0"] == (15, 1)
    assert torch.equal(module(inputs), module(inputs.unsqueeze(2)))


def test_token_ids_are_looked_up() -> None:
    module = build_lstm(LSTMOptions(hidden=5, vocabulary=7, embedding=4), array(6, classes=7))
    assert shapes(module)["embedding.weight"] == (7, 4)
    ids, weights = torch.tensor([[0.0, 3.0, 6.0, 1.0, 1.0, 2.0]]), weights_of(module)
    states = lstm_states(weights["embedding.weight"][ids.long()], weights, "l0")
    torch.testing.assert_close(module(ids), states[-1] @ weights["output.weight"].T + weights["output.bias"])


@pytest.mark.parametrize(
    ("options", "contract", "message"),
    [
        ({}, array(2, 3, 4), "data.shape = "),
        ({"vocabulary": 5}, array(6, 2, minimum=0, maximum=4), "token ids are an array of shape"),
        ({"vocabulary": 5}, array(6), "data.maximum = 4"),
        ({"vocabulary": 5}, array(6, minimum=0, maximum=5), "data.maximum = 4"),
        ({"vocabulary": 5}, array(6, minimum=-1, maximum=4), "data.minimum = 0"),
    ],
)
def test_arrays_that_are_no_sequence_of_known_tokens_are_refused(
    options: dict[str, Any], contract: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        check(GRUOptions(**options), contract)


def test_arrays_that_fit_pass() -> None:
    check(GRUOptions(), array(6, 2))
    check(GRUOptions(vocabulary=5), array(6, minimum=0, maximum=4))


@pytest.mark.parametrize("options", [{"hidden": 0}, {"layers": 9}, {"dropout": 1.0}, {"pooling": "max"}, {"cells": 1}])
def test_options_that_make_no_network_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        GRUOptions.model_validate_json(json.dumps(options))


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_it_learns_what_only_memory_can_tell(cell: str) -> None:
    """The class is the token at the first of six steps."""
    torch.manual_seed(2)
    inputs = torch.randint(3, (96, 6)).float()
    labels = inputs[:, 0].long()
    options = {"gru": GRUOptions, "lstm": LSTMOptions}[cell](hidden=12, vocabulary=3, embedding=4)
    module = ARCHITECTURES.find(cell).build(options, array(6, minimum=0, maximum=2))
    loss = fit(module.parameters(), lambda: functional.cross_entropy(module(inputs), labels), steps=60, rate=0.05)
    assert loss < 0.1  # guessing gives 1.1
