"""A model with a backbone: what is taken, what is frozen, what travels."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tests.unit.common.models.model_checks import image, table
from torch import nn

from hansa_common.errors import TrainingError, WeightsUnavailable
from hansa_common.model_plan import ModelPlan
from hansa_common.models.assembly import assemble, load_model
from hansa_common.models.networks.frozen_norm import FrozenNorm

RESNET = {"name": "resnet", "depth": 8, "normalisation": "batch"}
MLP = {"name": "mlp", "hidden": (4, 3)}


def build(model: dict[str, Any], data: Any, seed: int = 1) -> nn.Module:
    torch.manual_seed(seed)
    return assemble(ModelPlan.model_validate(model), data, folder=None).module


def plan(folder: Path, model: dict[str, Any], tensors: dict[str, torch.Tensor], **backbone: Any) -> ModelPlan:
    """Write the tensors and return a plan that starts from them."""
    path = folder / "w.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return ModelPlan.model_validate({**model, "backbone": {"file": path.name, "sha256": digest, **backbone}})


def test_without_a_backbone_nothing_is_fixed() -> None:
    assembled = assemble(ModelPlan(name="cox"), table(3), folder=None)
    assert (assembled.fixed, assembled.factors) == (frozenset(), {})


def test_all_but_the_last_layer_is_taken_whatever_the_files_classes(tmp_path: Path) -> None:
    pretrained = build(MLP, table(5, classes=7), seed=9).state_dict()
    torch.manual_seed(1)
    assembled = assemble(plan(tmp_path, MLP, pretrained), table(5), folder=tmp_path)
    state, alone = assembled.module.state_dict(), build(MLP, table(5)).state_dict()
    for name, tensor in state.items():
        assert torch.equal(tensor, alone[name] if name.startswith("dense3") else pretrained[name]), name
    assert assembled.fixed == frozenset()
    assert all(parameter.requires_grad for parameter in assembled.module.parameters())


def test_frozen_is_what_was_taken(tmp_path: Path) -> None:
    pretrained = build(MLP, table(5), seed=9).state_dict()
    assembled = assemble(plan(tmp_path, MLP, pretrained, frozen=True), table(5), folder=tmp_path)
    assert assembled.fixed == {"dense1.weight", "dense1.bias", "dense2.weight", "dense2.bias"}
    trained = {name for name, parameter in assembled.module.named_parameters() if parameter.requires_grad}
    assert trained == {"dense3.weight", "dense3.bias"}


def test_layers_have_learning_rates_and_zero_freezes(tmp_path: Path) -> None:
    pretrained = build(RESNET, image(1, 8, 8), seed=9).state_dict()
    rates = {"conv1": 0.0, "bn1": 0.0, "layer1": 0.1, "layer1.0.conv2": 0.5}
    model = plan(tmp_path, RESNET, pretrained, learning_rates=rates)
    assembled = assemble(model, image(1, 8, 8), folder=tmp_path)
    assert assembled.fixed == {"conv1.weight", *(f"bn1.{name}" for name in ("weight", "bias"))} | {
        "bn1.running_mean",
        "bn1.running_var",
    }
    assert assembled.factors["layer1.0.conv1.weight"] == 0.1
    assert assembled.factors["layer1.0.conv2.weight"] == 0.5
    assert not any(name.startswith(("layer2", "fc", "conv1")) for name in assembled.factors)


def test_frozen_statistics_do_not_move_and_the_function_is_the_files(tmp_path: Path) -> None:
    original = build(RESNET, image(1, 8, 8), seed=9)
    for _ in range(3):
        original(torch.rand(8, 1, 8, 8))  # moves the statistics away from where they start
    model = plan(tmp_path, RESNET, original.state_dict(), frozen=True)
    module = assemble(model, image(1, 8, 8), folder=tmp_path).module.train()
    assert sum(isinstance(layer, FrozenNorm) for layer in module.modules()) == 7
    before = {name: buffer.clone() for name, buffer in module.named_buffers()}
    images = torch.rand(8, 1, 8, 8)
    module.get_submodule("fc").load_state_dict(original.get_submodule("fc").state_dict())
    torch.testing.assert_close(module(images), original.eval()(images))
    assert all(torch.equal(buffer, before[name]) for name, buffer in module.named_buffers())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dense1.weight": None}, "'dense1.weight' is .4, 5., and the file has no such tensor"),
        ({"dense1.weight": torch.ones(4, 6)}, r"and the file has torch.float32 \[4, 6\]"),
        ({"dense1.weight": torch.ones(4, 5, dtype=torch.int64)}, r"and the file has torch.int64 \[4, 5\]"),
        ({"dense2.bias": torch.tensor([1.0, float("nan"), 0.0])}, "'dense2.bias' is not finite"),
    ],
)
def test_a_file_of_another_architecture_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    tensors = build(MLP, table(5)).state_dict() | change
    model = plan(tmp_path, MLP, {name: tensor for name, tensor in tensors.items() if tensor is not None})
    with pytest.raises(WeightsUnavailable, match=message):
        assemble(model, table(5), folder=tmp_path)


@pytest.mark.parametrize(("key", "value"), [("fresh", ("dense",)), ("learning_rates", {"dens": 0.1})])
def test_a_layer_that_is_not_there_is_named(tmp_path: Path, key: str, value: Any) -> None:
    model = plan(tmp_path, MLP, build(MLP, table(5)).state_dict(), **{key: value})
    with pytest.raises(TrainingError, match=f"model.backbone.{key}: the model has no layer 'dens"):
        assemble(model, table(5), folder=tmp_path)


def test_a_finished_model_is_put_together_again(tmp_path: Path) -> None:
    model = plan(tmp_path, MLP, build(MLP, table(5), seed=9).state_dict(), frozen=True)
    assembled = assemble(model, table(5), folder=tmp_path)
    travelled = {name: each + 1 for name, each in assembled.module.state_dict().items() if name not in assembled.fixed}
    assert set(travelled) == {"dense3.weight", "dense3.bias"}
    module = load_model(model, table(5), travelled, folder=tmp_path)
    assembled.module.load_state_dict(travelled, strict=False)
    inputs = torch.rand(3, 5)
    assert torch.equal(module(inputs), assembled.module(inputs))
    for wrong in ({}, travelled | {"dense9.bias": torch.ones(1)}):
        with pytest.raises(WeightsUnavailable, match="not those of the plan's model: dense"):
            load_model(model, table(5), wrong, folder=tmp_path)


@pytest.mark.slow
@pytest.mark.needs_data
def test_the_published_resnet20_knows_cifar10(test_data: Path) -> None:
    """Its authors report 8.27 % error on all 10,000 test images; here are 500 of them, in 0 to 255, normalised."""
    path = test_data / "models" / "resnet20-12fca82f.th"
    backbone = {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "frozen": True}
    model = ModelPlan.model_validate({"name": "resnet", "depth": 20, "normalisation": "batch", "backbone": backbone})
    module = assemble(model, image(3, 32, 32, classes=10), folder=path.parent).module.eval()
    head = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    module.get_submodule("fc").load_state_dict({name: head[f"module.linear.{name}"] for name in ("weight", "bias")})
    with np.load(test_data / "cifar10" / "cifar10_10k_2k.npz") as archive:
        images, labels = archive["x_test"][::4], archive["y_test"].reshape(-1)[::4]
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    inputs = ((torch.from_numpy(images) / 255 - mean) / deviation).permute(0, 3, 1, 2)
    with torch.inference_mode():
        right = (module(inputs).argmax(1) == torch.from_numpy(labels)).float().mean()
    assert float(right) > 0.88
