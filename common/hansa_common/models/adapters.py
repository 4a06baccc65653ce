"""Low-rank adapters by the package peft, which is imported only where a plan asks for them.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022: a frozen layer ``W x`` becomes
``W x + alpha / rank * B A x``. A starts random, B zero, so that training starts from the backbone's function.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from hansa_common.errors import TrainingError, UsageError
from hansa_common.model_plan import LoRAPlan

if TYPE_CHECKING:
    from torch import nn


def add_adapters(module: "nn.Module", plan: LoRAPlan, fresh: Iterable[str]) -> None:
    """Put adapters on linear layers, in place; which other parameters are trained is left as it was.

    Args:
        module: Its backbone is frozen.
        plan: Rank, alpha and targets.
        fresh: Layers that are trained whole and get no adapter.

    Raises:
        UsageError: peft is not installed.
        TrainingError: A target is no linear layer of the backbone.
    """
    names = _targets(module, plan, tuple(fresh))
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise UsageError("[model.lora] needs the package peft.", advice="Install hansa[lora].") from None
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    config = LoraConfig(r=plan.rank, lora_alpha=plan.alpha, lora_dropout=0.0, bias="none", target_modules=names)
    inject_adapter_in_model(config, module)
    for parameter in trained:  # peft freezes everything but its adapters
        parameter.requires_grad_()


def merge_adapters(module: "nn.Module") -> None:
    """Add ``alpha / rank * B A`` to each adapted layer's weights and take the adapter away, in place."""
    for name, layer in list(module.named_modules()):
        if hasattr(layer, "lora_A") and hasattr(layer, "base_layer"):
            layer.merge(safe_merge=True)
            parent, _, own = name.rpartition(".")
            setattr(module.get_submodule(parent), own, layer.get_base_layer())


def _targets(module: "nn.Module", plan: LoRAPlan, fresh: tuple[str, ...]) -> list[str]:
    """Return the full names of the layers that get adapters."""
    from torch import nn

    linear = [
        name
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear) and not any(name == each or name.startswith(f"{each}.") for each in fresh)
    ]
    if not linear:
        raise TrainingError("model.lora: the backbone has no linear layer.", advice="Take frozen = true alone.")
    for target in plan.targets:
        if not any(_ends_with(name, target) for name in linear):
            raise TrainingError(
                f"model.lora.targets: the backbone has no linear layer '{target}'.",
                advice=f"It has {', '.join(linear)}.",
            )
    return [name for name in linear if not plan.targets or any(_ends_with(name, target) for target in plan.targets)]


def _ends_with(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")
