"""Training with a backbone: only what is trained is in the vector, each layer at its own rate."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tests.conftest import small_study

from hansa_client.site_data import simulated_site
from hansa_client.training.flat_model import build_module, initial_parameters, offer_weights
from hansa_client.training.optimizer import Group, build_optimizer
from hansa_client.work import Work
from hansa_common.errors import WeightsUnavailable
from hansa_common.messages import InitialTask, Message, TrainTask, Update, encode
from hansa_common.parameters import Vector
from hansa_common.plan import StudyPlan, parse_plan
from hansa_common.training_plan import TrainingPlan


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


MLP = {"name": "mlp", "hidden": [20, 10]}
TRANSFORMER = {"name": "transformer", "width": 64, "layers": 2, "heads": 4, "feedforward": 128}


def study(folder: Path, model: dict[str, Any], *, lora: dict[str, Any] | None = None, **backbone: Any) -> StudyPlan:
    """Return a study whose model starts from a file that is written here."""
    plain = parse_plan(small_study(replaced={"model": model}))
    path = folder / "w.safetensors"
    save_file(build_module(plain, 99).module.state_dict(), path)
    section = {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest(), **backbone}
    wanted = {**model, "backbone": section} | ({"lora": lora} if lora else {})
    data = {"adapter": "digits", "weights": str(folder)}
    return parse_plan(small_study(replaced={"model": wanted}, simulation={"data": data}))


def one_step(plan: StudyPlan) -> StudyPlan:
    return plan.model_copy(update={"training": plan.training.model_copy(update={"epochs": None, "steps": 1})})


def one_round(plan: StudyPlan) -> tuple[Work, Vector, Message]:
    """Return a site's work, the initial vector and its update."""
    work = Work(plan, simulated_site(plan, 0), "cpu")
    initial = work.do(Message(header=InitialTask(plan_digest=work.digest))).vector
    assert initial is not None
    task = TrainTask(plan_digest=work.digest, round=1, attempt=1)
    return work, initial, work.do(Message(header=task, vector=initial))


def bytes_of(message: Message) -> int:
    return sum(len(array.data) for array in encode(message).arrays.values())


def test_only_what_is_trained_travels(tmp_path: Path) -> None:
    whole = one_round(study(tmp_path, MLP))[2]
    work, initial, update = one_round(study(tmp_path, MLP, frozen=True))
    assert isinstance(update.header, Update)
    assert update.vector is not None
    assert initial.shape == update.vector.shape == (10 * 10 + 10,)
    assert update.vector.any()
    # the counts of the validation split are in both
    assert bytes_of(whole) - bytes_of(update) == 4 * (64 * 20 + 20 + 20 * 10 + 10)
    assert [tensor.name for tensor in work._procedure.spec.tensors] == ["dense3.weight", "dense3.bias"]


def test_a_fine_tuned_backbone_is_the_initial_model(tmp_path: Path) -> None:
    plan = study(tmp_path, MLP)
    _, initial, _ = one_round(plan)
    original = build_module(parse_plan(small_study(replaced={"model": MLP})), 99).module.state_dict()
    np.testing.assert_array_equal(initial[: 64 * 20].reshape(20, 64), original["dense1.weight"].numpy())


def test_another_file_at_a_site_refuses_the_study(tmp_path: Path) -> None:
    plan = study(tmp_path, MLP, frozen=True)
    path = tmp_path / "w.safetensors"
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(WeightsUnavailable, match="not the file that the plan names"):
        Work(plan, simulated_site(plan, 0), "cpu")
    offer_weights(plan.model.backbone, None)  # type: ignore[arg-type]
    with pytest.raises(WeightsUnavailable, match="nothing says where"):
        initial_parameters(plan, 1)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_groups_step_as_parameter_groups_of_torch(optimizer: Any) -> None:
    """Oracle: an optimiser of its own for each part, at its own rate."""
    momentum = 0.9 if optimizer == "sgd" else 0.0
    plan = TrainingPlan(optimizer=optimizer, weight_decay=0.1, steps=1, momentum=momentum)
    torch.manual_seed(1)
    values, gradients = torch.randn(7), torch.randn(4, 7)
    parameter = torch.nn.Parameter(values.clone())
    parameter.grad = torch.zeros(7)
    grouped = build_optimizer(
        plan, parameter, (Group(part=slice(0, 3), factor=0.1), Group(part=slice(3, 7), factor=1.0))
    )
    parts = [torch.nn.Parameter(values[:3].clone()), torch.nn.Parameter(values[3:].clone())]
    for part in parts:
        part.grad = torch.zeros_like(part)
    alone = [build_optimizer(plan, part) for part in parts]
    for gradient in gradients:
        parameter.grad.copy_(gradient)
        grouped.step(0.01)
        for part, one, own, rate in zip(parts, alone, (gradient[:3], gradient[3:]), (0.001, 0.01), strict=True):
            assert part.grad is not None
            part.grad.copy_(own)
            one.step(rate)
    torch.testing.assert_close(parameter.detach(), torch.cat([part.detach() for part in parts]))
    assert not torch.equal(parameter.detach(), values)


def test_a_layer_with_a_small_rate_moves_little(tmp_path: Path) -> None:
    """SGD without momentum, one step: the update is the rate times the gradient."""
    plain = study(tmp_path, MLP)
    slow = study(tmp_path, MLP, learning_rates={"dense1": 0.01, "dense2": 0.5})
    full, part = (one_round(one_step(plan))[2].vector for plan in (plain, slow))
    assert full is not None
    assert part is not None
    first, second = 64 * 20 + 20, 64 * 20 + 20 + 20 * 10 + 10
    np.testing.assert_allclose(part[:first], 0.01 * full[:first], rtol=0, atol=1e-7)
    np.testing.assert_allclose(part[first:second], 0.5 * full[first:second], rtol=0, atol=1e-7)
    np.testing.assert_allclose(part[second:], full[second:], rtol=0, atol=1e-7)
    assert np.abs(full[:first]).max() > 1e-4


@pytest.mark.slow
def test_with_lora_a_round_carries_the_adapter_only(tmp_path: Path) -> None:
    """Bytes of one update of a transformer of 71,946 parameters: whole, and with adapters of rank 4."""
    before = one_round(one_step(study(tmp_path, TRANSFORMER)))[2]
    _, initial, after = one_round(one_step(study(tmp_path, TRANSFORMER, frozen=True, lora={"rank": 4})))
    assert before.vector is not None
    assert after.vector is not None
    adapters = 4 * (1 + 64) + 2 * (4 * 4 * (64 + 64) + 2 * 4 * (64 + 128))
    assert after.vector.size == initial.size == adapters + 64 * 10 + 10
    assert before.vector.size == 64 + 64 + 64 * 64 + 2 * (4 * 64 * 65 + 4 * 64 + 65 * 128 + 129 * 64) + 128 + 650
    assert bytes_of(before) - bytes_of(after) == 4 * (before.vector.size - after.vector.size)
    assert bytes_of(before) > 8 * bytes_of(after)
    assert after.vector.any()
