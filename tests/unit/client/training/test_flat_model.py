import gc
import weakref

import numpy as np
import pytest
import torch
from torch import nn

from hansa_client.training.flat_model import FlatModel, initial_parameters, shared_model
from hansa_common.plan import StudyPlan, parse_plan

CPU = torch.device("cpu")


def plan(**training: object) -> StudyPlan:
    return parse_plan(
        {
            "name": "flat",
            "purpose": "A test.",
            "model": {"name": "cnn", "filters": [3, 4, 5], "dense": 6},
            "data": {"kind": "image", "classes": ["a", "b"], "channels": 2, "height": 18, "width": 19},
            "training": {"epochs": 1, **training},
            "rounds": {"count": 1},
        }
    )


class Normalised(nn.Module):
    """Has every kind of state: trainable, frozen, running statistics, an integer and a buffer that is not saved."""

    scale: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.Parameter(torch.full((2,), 3.0), requires_grad=False)
        self.linear = nn.Linear(4, 3)
        self.norm = nn.BatchNorm1d(3)
        self.register_buffer("scale", torch.ones(1), persistent=False)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        self.scale += 1
        normalised: torch.Tensor = self.norm(self.linear(inputs))
        return normalised


@pytest.fixture
def model() -> FlatModel:
    torch.manual_seed(0)
    return FlatModel(Normalised(), CPU)


def test_the_vector_holds_trainable_parameters_then_all_other_floating_point_state(model: FlatModel) -> None:
    assert [tensor.name for tensor in model.spec.tensors] == [
        "linear.weight",
        "linear.bias",
        "norm.weight",
        "norm.bias",
        "frozen",
        "norm.running_mean",
        "norm.running_var",
    ]
    assert model.trainable.numel() == 4 * 3 + 3 + 3 + 3


def test_loading_sets_each_tensor_to_its_part(model: FlatModel) -> None:
    vector = np.arange(model.spec.size, dtype=np.float32)
    model.load(vector)
    state = model.module.state_dict()
    for name, part in model.spec.split(vector):
        np.testing.assert_array_equal(state[name].numpy(), part)
    np.testing.assert_array_equal(model.minus(vector), np.zeros_like(vector))


def test_gradients_and_statistics_arrive_in_the_vector(model: FlatModel) -> None:
    vector = np.ones(model.spec.size, dtype=np.float32)
    model.load(vector)
    inputs = torch.randn(8, 4)
    model.module.train()
    (model.module(inputs) ** 2).sum().backward()
    assert model.trainable.grad is not None
    expected = torch.cat([p.grad.reshape(-1) for p in model.module.parameters() if p.grad is not None])
    assert torch.equal(model.trainable.grad, expected)
    assert expected.abs().sum() > 0
    moved = dict(model.spec.split(model.minus(vector)))
    assert np.abs(moved["norm.running_mean"]).min() > 0
    assert np.abs(moved["linear.weight"]).max() == 0
    model.clear_gradient()
    assert all(not p.grad.any() for p in model.module.parameters() if p.grad is not None)


def test_local_buffers_start_each_load_as_they_were_built(model: FlatModel) -> None:
    vector = np.ones(model.spec.size, dtype=np.float32)
    norm, module = model.module.norm, model.module
    assert isinstance(norm, nn.BatchNorm1d)
    assert isinstance(module, Normalised)
    module(torch.randn(8, 4))
    assert norm.num_batches_tracked is not None
    assert (int(norm.num_batches_tracked), float(module.scale)) == (1, 2.0)
    model.load(vector)
    assert (int(norm.num_batches_tracked), float(module.scale)) == (0, 1.0)


@pytest.mark.parametrize("vector", [np.zeros(3, np.float32), np.zeros(32, np.float64)])
def test_another_shape_or_type_is_the_callers_bug(model: FlatModel, vector: np.ndarray[tuple[int], np.dtype]) -> None:
    assert model.spec.size == 29
    with pytest.raises(RuntimeError, match="29 float32 values"):
        model.load(vector)


def test_a_read_only_vector_can_be_loaded(model: FlatModel) -> None:
    model.load(np.frombuffer(bytes(4 * 29), dtype=np.float32))


def test_one_plan_has_one_model_per_process_and_it_goes_with_its_last_holder() -> None:
    first = shared_model(plan(), CPU)
    assert shared_model(plan(), CPU) is first
    assert shared_model(plan(batch_size=3), CPU) is not first
    watch = weakref.ref(first)
    del first
    gc.collect()
    assert watch() is None


def test_initial_parameters_depend_on_the_seed_and_leave_the_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    first, again, other = (initial_parameters(plan(), seed) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(2), expected)
    assert first.dtype == np.float32
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    spec = shared_model(plan(), CPU).spec
    assert len(first) == spec.size
    biases = [part for name, part in spec.split(first) if name.endswith("bias")]
    assert biases
    assert not np.concatenate(biases).any()
