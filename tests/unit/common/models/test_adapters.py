"""LoRA by peft; importing it takes seconds, so these tests are slow ones."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tests.unit.common.models.model_checks import array, fit, image
from torch import nn
from torch.nn import functional

from hansa_common.contract import ArrayContract
from hansa_common.errors import TrainingError, UsageError
from hansa_common.model_plan import ModelPlan
from hansa_common.models.assembly import Assembled, assemble, load_model

TRANSFORMER = {"name": "transformer", "width": 16, "layers": 2, "heads": 2, "feedforward": 32, "vocabulary": 9}
DATA = array(6, minimum=0, maximum=8)
BLOCK_LAYERS = ("attention.query", "attention.key", "attention.value", "attention.output", "dense1", "dense2")


def plan(folder: Path, *, model: dict[str, Any] = TRANSFORMER, data: Any = DATA, **lora: Any) -> ModelPlan:
    torch.manual_seed(9)
    path = folder / "w.safetensors"
    save_file(assemble(ModelPlan.model_validate(model), data, folder=None).module.state_dict(), path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    backbone = {"file": path.name, "sha256": digest, "frozen": True}
    return ModelPlan.model_validate({**model, "backbone": backbone, "lora": lora})


def build(folder: Path, **lora: Any) -> tuple[ModelPlan, Assembled]:
    model = plan(folder, **lora)
    torch.manual_seed(1)
    return model, assemble(model, DATA, folder=folder)


def trained(module: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}


@pytest.mark.slow
def test_adapters_and_the_fresh_layer_are_trained_and_nothing_else(tmp_path: Path) -> None:
    _, assembled = build(tmp_path, rank=3, targets=("query", "value"))
    names = {
        f"blocks.{block}.attention.{layer}.lora_{half}.default.weight"
        for block in (0, 1)
        for layer in ("query", "value")
        for half in ("A", "B")
    }
    assert set(trained(assembled.module)) == names | {"output.weight", "output.bias"}
    assert assembled.fixed == set(dict(assembled.module.named_parameters())) - set(trained(assembled.module))


@pytest.mark.slow
def test_without_targets_every_linear_layer_of_the_backbone_has_one(tmp_path: Path) -> None:
    _, assembled = build(tmp_path, rank=3)
    sizes = {"dense1": 3 * (16 + 32), "dense2": 3 * (32 + 16)}
    adapters = 2 * sum(sizes.get(layer, 3 * (16 + 16)) for layer in BLOCK_LAYERS)
    assert sum(each.numel() for each in trained(assembled.module).values()) == adapters + 16 * 3 + 3


@pytest.mark.slow
def test_it_starts_from_the_backbones_function_and_computes_the_papers_sum(tmp_path: Path) -> None:
    """Oracle: W + alpha / rank * B A put into a plain model of the same architecture."""
    model, assembled = build(tmp_path, rank=3, alpha=12)
    ids = torch.randint(9, (4, 6)).float()
    plain = assemble(model.model_copy(update={"lora": None}), DATA, folder=tmp_path).module
    plain.load_state_dict(
        {name: assembled.module.state_dict()[name] for name in ("output.weight", "output.bias")}, strict=False
    )
    torch.testing.assert_close(assembled.module(ids), plain(ids))

    with torch.no_grad():
        for parameter in trained(assembled.module).values():
            parameter.add_(0.1 * torch.randn_like(parameter))
        state = assembled.module.state_dict()
        for name, parameter in plain.named_parameters():
            layer = name.removesuffix(".weight")
            if f"{layer}.lora_A.default.weight" in state and name.endswith(".weight"):
                product = state[f"{layer}.lora_B.default.weight"] @ state[f"{layer}.lora_A.default.weight"]
                parameter.add_(12 / 3 * product)
            elif name in state:
                parameter.copy_(state[name])
    torch.testing.assert_close(assembled.module(ids), plain(ids))

    travelled = {name: tensor for name, tensor in state.items() if name not in assembled.fixed}
    merged = load_model(model, DATA, travelled, folder=tmp_path, merge=True)
    assert set(merged.state_dict()) == set(plain.state_dict())
    torch.testing.assert_close(merged(ids), plain(ids))


@pytest.mark.slow
def test_it_learns_with_the_backbone_as_it_was(tmp_path: Path) -> None:
    _, assembled = build(tmp_path, rank=4)
    module, ids = assembled.module, torch.randint(9, (48, 6), generator=torch.Generator().manual_seed(1)).float()
    labels = ids[:, 0].long() % 3
    fixed = {name: tensor.clone() for name, tensor in module.state_dict().items() if name in assembled.fixed}

    def loss() -> torch.Tensor:
        return functional.cross_entropy(module(ids), labels)

    assert fit(trained(module).values(), loss, steps=80, rate=0.02) < 0.3  # guessing gives 1.1
    assert all(torch.equal(module.state_dict()[name], tensor) for name, tensor in fixed.items())


@pytest.mark.parametrize(
    ("model", "data", "targets", "message"),
    [
        (TRANSFORMER, DATA, ("queries",), "no linear layer 'queries'"),
        (TRANSFORMER, DATA, ("output",), ""),
        ({"name": "resnet", "depth": 8}, image(1, 8, 8), (), "no linear layer"),
    ],
)
@pytest.mark.slow
def test_what_is_no_linear_layer_of_the_backbone_is_named(
    tmp_path: Path, model: dict[str, Any], data: ArrayContract, targets: tuple[str, ...], message: str
) -> None:
    wanted = plan(tmp_path, model=model, data=data, targets=targets)
    if message:
        with pytest.raises(TrainingError, match=message):
            assemble(wanted, data, folder=tmp_path)
        return
    names = trained(assemble(wanted, data, folder=tmp_path).module)
    assert {name.rpartition(".lora")[0] for name in names if "lora" in name} == {
        "blocks.0.attention.output",
        "blocks.1.attention.output",
    }


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(UsageError, match=r"needs the package peft. Install hansa\[lora\]"):
        build(tmp_path)
