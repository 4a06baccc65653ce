"""A plan's model as it is trained: built, started from a backbone, frozen in part, with adapters on it.

Which tensors are trained and travel follows from the plan alone, so every site and every reader of a finished model
comes to the same ones.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from hansa_common.errors import TrainingError, WeightsUnavailable
from hansa_common.model_plan import BackbonePlan, ModelPlan
from hansa_common.models.adapters import add_adapters, merge_adapters
from hansa_common.models.fitting import model_options
from hansa_common.models.pretrained import read_weights
from hansa_common.models.registry import ARCHITECTURES, Contract

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True, slots=True, kw_only=True)
class Assembled:
    """A model and what of it is learned.

    Attributes:
        module: The network; parameters that are not trained ask for no gradient.
        fixed: Names of the tensors that are as the backbone's file has them, at every site and for good.
        factors: Of the learning rate, by the name of a trained tensor; 1 for those not named.
    """

    module: "nn.Module" = field(repr=False)
    fixed: frozenset[str] = frozenset()
    factors: Mapping[str, float] = field(default_factory=dict)


def assemble(model: ModelPlan, data: Contract, *, folder: Path | None) -> Assembled:
    """Build a plan's model; initial weights are drawn from torch's global generator.

    Args:
        model: Of the plan.
        data: Its contract.
        folder: Where weight files lie; only a plan with a backbone needs one.

    Raises:
        WeightsUnavailable: The backbone's file is missing, another one, or of another architecture.
        TrainingError: The plan names a layer that the model has not.
        UsageError: Adapters need a package that is not installed.
    """
    module = ARCHITECTURES.find(model.name).build(model_options(model), data)
    backbone = model.backbone
    if backbone is None:
        return Assembled(module=module)
    fresh = backbone.fresh or (_last_layer(module),)
    _require_layers(module, fresh, "fresh")
    _require_layers(module, backbone.learning_rates, "learning_rates")
    _start_from(module, read_weights(backbone, folder), fresh, backbone.file)
    factors = {name: _factor(name, backbone, fresh) for name, _ in module.named_parameters()}
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(factors[name] > 0.0)
    fixed = _fix_statistics(module)
    if model.lora is not None:
        add_adapters(module, model.lora, fresh)
    names = dict(module.named_parameters())
    fixed |= {name for name, parameter in names.items() if not parameter.requires_grad}
    return Assembled(
        module=module,
        fixed=frozenset(fixed),
        factors={name: factor for name, factor in factors.items() if name in names and factor not in (0.0, 1.0)},
    )


def load_model(
    model: ModelPlan, data: Contract, tensors: "Mapping[str, Tensor]", *, folder: Path | None, merge: bool = False
) -> "nn.Module":
    """Return a finished model, ready to predict.

    Args:
        model: Of the plan.
        data: Its contract.
        tensors: Those that a study exports: all that travelled.
        folder: Where the backbone's file lies.
        merge: Add the adapters to the layers they are on, so that the result is a model of the plan's architecture
            whose ``state_dict`` needs neither backbone nor adapters.

    Raises:
        WeightsUnavailable: As ``assemble``; or the tensors are not those that the plan's model lacks.
    """
    import torch

    with torch.random.fork_rng(devices=[]):
        assembled = assemble(model, data, folder=folder)
    missing, unknown = assembled.module.load_state_dict(tensors, strict=False)
    absent = [name for name in missing if name not in assembled.fixed and not name.endswith("num_batches_tracked")]
    if absent or unknown:
        raise WeightsUnavailable(
            f"The tensors are not those of the plan's model: {', '.join([*absent, *unknown][:5])}.",
            advice="Take model.safetensors and plan.toml from one run.",
        )
    if merge:
        merge_adapters(assembled.module)
    return assembled.module.eval()


def _is_below(tensor: str, layers: Iterable[str]) -> bool:
    return any(tensor == layer or tensor.startswith(f"{layer}.") for layer in layers)


def _last_layer(module: "nn.Module") -> str:
    """Return the name of the last layer that has weights of its own."""
    return list(module.named_parameters())[-1][0].rpartition(".")[0]


def _require_layers(module: "nn.Module", layers: Iterable[str], key: str) -> None:
    names = [name for name, _ in module.named_parameters()]
    for layer in layers:
        if not any(_is_below(name, (layer,)) for name in names):
            known = ", ".join(dict.fromkeys(name.rpartition(".")[0] for name in names))
            raise TrainingError(f"model.backbone.{key}: the model has no layer '{layer}'.", advice=f"It has {known}.")


def _start_from(module: "nn.Module", weights: "Mapping[str, Tensor]", fresh: Iterable[str], file: str) -> None:
    import torch

    fresh = tuple(fresh)
    for name, tensor in module.state_dict().items():
        if _is_below(name, fresh) or not tensor.is_floating_point():
            continue
        found = weights.get(name)
        if found is None or found.shape != tensor.shape or not found.is_floating_point():
            what = "no such tensor" if found is None else f"{found.dtype} {list(found.shape)}"
            raise WeightsUnavailable(
                f"{file} does not fit the plan's model: its '{name}' is {list(tensor.shape)}, and the file has {what}.",
                advice="Name the right file, or layers that start anew by model.backbone.fresh.",
            )
        if not torch.isfinite(found).all():
            raise WeightsUnavailable(f"{file}: '{name}' is not finite.")
        tensor.copy_(found)


def _factor(name: str, backbone: BackbonePlan, fresh: Iterable[str]) -> float:
    named = [layer for layer in backbone.learning_rates if _is_below(name, (layer,))]
    if named:
        return backbone.learning_rates[max(named, key=len)]
    return 0.0 if backbone.frozen and not _is_below(name, fresh) else 1.0


def _fix_statistics(module: "nn.Module") -> set[str]:
    """Let frozen batch normalisation use the file's statistics in training too; return the names of these buffers."""
    from hansa_common.models.networks.frozen_norm import FrozenNorm, is_frozen

    fixed = set()
    for name, layer in list(module.named_modules()):
        if is_frozen(layer):
            parent, _, own = name.rpartition(".")
            setattr(module.get_submodule(parent), own, FrozenNorm(layer))
            fixed |= {f"{name}.{buffer}" for buffer in ("weight", "bias", "running_mean", "running_var")}
    return fixed
