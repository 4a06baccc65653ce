"""Attributions against closed forms: nothing here trusts captum to say what captum computes."""

import itertools
import math
from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np
import pytest
import torch
from torch import nn

from hansa_client.training.attribution import Question, attribute, grouped, players_of, require_explainable
from hansa_common.contract import ArrayContract, Column, ImageContract, TableContract
from hansa_common.errors import TaskRefused
from hansa_common.explain_plan import ExplainPlan

AB = ("a", "b")
Built = TypeVar("Built", bound=nn.Module)
TABLE = TableContract(
    kind="table",
    classes=AB,
    label="y",
    columns=(Column(name="age"), Column(name="sex", type="category", categories=("f", "m")), Column(name="dose")),
)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def ask(method: str, module: nn.Module, inputs: torch.Tensor, labels: list[int], **options: object) -> np.ndarray:
    baseline = options.pop("baseline", torch.zeros_like(inputs[:1]))
    players = options.pop("players", torch.arange(inputs[0].numel()).reshape(1, *inputs.shape[1:]))
    assert isinstance(baseline, torch.Tensor)
    assert isinstance(players, torch.Tensor)
    question = Question(inputs=inputs, labels=torch.tensor(labels), baseline=baseline, players=players)
    return attribute(ExplainPlan.model_validate({"method": method} | options), module.eval(), question)


def seeded(build: Callable[[], Built], seed: int = 0) -> Built:
    torch.manual_seed(seed)
    return build()


def test_integrated_gradients_of_a_linear_model_are_weight_times_distance_from_the_baseline() -> None:
    model = seeded(lambda: nn.Linear(4, 2))
    inputs, baseline = torch.randn(3, 4), torch.randn(1, 4)
    found = ask("integrated_gradients", model, inputs, [0, 1, 1], baseline=baseline)
    weight = model.weight.detach()[[0, 1, 1]]
    np.testing.assert_allclose(found, (weight * (inputs - baseline)).numpy(), atol=1e-6)


def test_integrated_gradients_add_up_to_what_the_score_gained_over_the_baseline() -> None:
    """Completeness, proposition 1 of the paper."""
    model = seeded(lambda: nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2)))
    inputs, baseline = torch.randn(5, 4), torch.randn(1, 4)
    labels = [0, 1, 0, 1, 1]
    found = ask("integrated_gradients", model, inputs, labels, baseline=baseline, steps=64)
    with torch.no_grad():
        gained = (model(inputs) - model(baseline))[torch.arange(5), torch.tensor(labels)]
    np.testing.assert_allclose(found.sum(axis=1), gained.numpy(), atol=1e-5)


def test_integrated_gradients_of_a_recurrent_model_have_a_value_for_each_step() -> None:
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.recurrent = nn.LSTM(2, 4, batch_first=True)
            self.head = nn.Linear(4, 2)

        def forward(self, series: torch.Tensor) -> torch.Tensor:
            outputs: torch.Tensor = self.head(self.recurrent(series[:, :3])[0][:, -1])
            return outputs

    model = seeded(Last)
    inputs = torch.randn(2, 5, 2)
    found = ask("integrated_gradients", model, inputs, [0, 1], steps=64)
    assert found.shape == (2, 5, 2)
    assert (np.abs(found[:, :3]).sum(axis=2) > 1e-6).all()
    assert (found[:, 3:] == 0.0).all()  # the model does not look at the last two steps
    raising, lowering = grouped(found, ArrayContract(kind="array", classes=AB, shape=(5, 2)))
    np.testing.assert_allclose((raising - lowering)[:, 2:], found.sum(axis=2))
    np.testing.assert_allclose((raising + lowering)[:, :2], np.abs(found).sum(axis=1))


def test_grad_cam_is_what_a_hand_computes() -> None:
    """Equations 1 and 2: weights are mean gradients of the score, the map is what is positive of the weighted sum."""
    first, last, head = (
        seeded(lambda: nn.Conv2d(1, 3, 3)),
        seeded(lambda: nn.Conv2d(3, 2, 3), 1),
        seeded(lambda: nn.Linear(8, 2), 2),
    )
    model = nn.Sequential(first, nn.ReLU(), last, nn.ReLU(), nn.Flatten(), head)
    inputs = torch.randn(2, 1, 6, 6)
    found = ask("grad_cam", model, inputs, [1, 0])
    for number, label in enumerate([1, 0]):
        activation = last(first(inputs[number : number + 1]).relu()).detach()[0].numpy()
        weight = head.weight[label].detach().reshape(2, 2, 2).numpy()
        alpha = (weight * (activation > 0)).mean(axis=(1, 2))
        hand = np.maximum((alpha[:, None, None] * activation).sum(axis=0), 0.0)
        scaled = nn.functional.interpolate(torch.from_numpy(hand)[None, None], (6, 6), mode="bilinear")[0, 0]
        np.testing.assert_allclose(found[number], scaled.numpy(), atol=1e-6)
    assert found.max() > 0


def test_shapley_values_of_an_additive_model_are_its_terms_and_columns_enter_whole() -> None:
    model = seeded(lambda: nn.Linear(4, 2))
    inputs, baseline = torch.randn(3, 4), torch.randn(1, 4)
    players = players_of(TABLE)
    assert players.tolist() == [[0, 1, 1, 2]]
    found = ask("shapley", model, inputs, [1, 0, 1], baseline=baseline, players=players, steps=8)
    terms = (model.weight.detach()[[1, 0, 1]] * (inputs - baseline)).numpy()
    columns = np.stack([terms[:, 0], terms[:, 1] + terms[:, 2], terms[:, 3]], axis=1)
    raising, lowering = grouped(found, TABLE)
    np.testing.assert_allclose(raising - lowering, columns, atol=1e-6)


def test_sampled_shapley_values_come_near_the_definition_where_inputs_interact() -> None:
    class Interacting(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            score = x[:, 0] * x[:, 1] + 2.0 * x[:, 2] * x[:, 0] * x[:, 1] + x[:, 2]
            return torch.stack([score, -score], dim=1)

    model, x = Interacting(), torch.tensor([[1.0, 2.0, -1.0]])

    def value(players: tuple[int, ...]) -> float:
        kept = torch.zeros_like(x)
        kept[:, list(players)] = x[:, list(players)]
        return float(model(kept)[0, 0])

    exact = [
        sum(
            (value((*rest, player)) - value(rest)) * math.factorial(len(rest)) * math.factorial(2 - len(rest)) / 6
            for size in range(3)
            for rest in itertools.combinations([other for other in range(3) if other != player], size)
        )
        for player in range(3)
    ]
    torch.manual_seed(1)
    found = ask("shapley", model, x, [0], steps=600)
    np.testing.assert_allclose(found[0], exact, atol=0.2)  # sd of one permutation is at most 2, of the mean .08
    assert found.sum() == pytest.approx(value((0, 1, 2)), abs=1e-4)


def test_cells_of_an_image_add_up_to_its_pixels_and_channels_are_added_first() -> None:
    contract = ImageContract(kind="image", classes=AB, channels=3, height=20, width=33)
    values = np.random.default_rng(0).normal(size=(2, 3, 20, 33))
    raising, lowering = grouped(values, contract)
    assert raising.shape == (2, 256)
    pixels = values.sum(axis=1)
    np.testing.assert_allclose((raising + lowering).sum(axis=1), np.abs(pixels).sum(axis=(1, 2)))
    first = pixels[:, :1, :2]  # 20 rows in 16: the first cell has one row; 33 columns in 16: it has two
    np.testing.assert_allclose((raising - lowering)[:, 0], first.sum(axis=(1, 2)))


def test_parameters_and_their_gradients_are_left_alone() -> None:
    model = seeded(lambda: nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)))
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    ask("integrated_gradients", model, torch.randn(3, 4), [0, 1, 0])
    for parameter, value in zip(model.parameters(), before, strict=True):
        assert torch.equal(parameter, value)
        assert parameter.grad is not None
        assert (parameter.grad == 1.0).all()


def test_what_cannot_be_explained_here_is_said_before_the_first_round(monkeypatch: pytest.MonkeyPatch) -> None:
    grad_cam = ExplainPlan(method="grad_cam")
    require_explainable(grad_cam, nn.Sequential(nn.Conv2d(1, 1, 3)))
    with pytest.raises(TaskRefused, match="convolution"):
        require_explainable(grad_cam, nn.Sequential(nn.Linear(2, 2)))
    monkeypatch.setattr("hansa_client.training.attribution.find_spec", lambda _name: None)
    with pytest.raises(TaskRefused, match="captum"):
        require_explainable(ExplainPlan(method="shapley"), nn.Linear(2, 2))
