"""Weights from a file: read once, compared with the plan's hash, and never unpickled into anything but tensors."""

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hansa_common.errors import WeightsUnavailable
from hansa_common.model_plan import BackbonePlan

if TYPE_CHECKING:
    from torch import Tensor

_PREFIX = "module."  # of weights that torch.nn.DataParallel trained
_NESTED = ("state_dict", "model", "model_state_dict")  # usual keys of a training checkpoint


def read_weights(backbone: BackbonePlan, folder: Path | None) -> "dict[str, Tensor]":
    """Return the tensors of the file that the plan names, on the CPU.

    What is hashed is what is parsed: the file is read once.

    Args:
        backbone: Of the plan.
        folder: Where this site has its weight files.

    Raises:
        WeightsUnavailable: There is no such file, it is another one, or it holds no tensors by name.
    """
    if folder is None:
        raise WeightsUnavailable(
            f"The plan's model starts from {backbone.file}, and nothing says where weight files lie here.",
            advice="Name their folder: 'weights' beside the adapter, in [data.NAME] of site.toml or [simulation.data].",
        )
    path = folder.expanduser() / backbone.file
    try:
        content = path.read_bytes()
    except OSError as error:
        raise WeightsUnavailable(f"{path} cannot be read: {error.strerror}.", advice="Put the file there.") from error
    found = hashlib.sha256(content).hexdigest()
    if found != backbone.sha256:
        raise WeightsUnavailable(
            f"{path} is not the file that the plan names: its SHA-256 is {found}, the plan's {backbone.sha256}.",
            advice="Get the file from where the plan's author has it.",
        )
    return _named_tensors(content, path)


def _named_tensors(content: bytes, path: Path) -> "dict[str, Tensor]":
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load

    values: Any
    try:
        if path.suffix == ".safetensors":
            values = load(content)
        else:
            values = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except (SafetensorError, ValueError, RuntimeError, EOFError, KeyError) as error:
        raise WeightsUnavailable(f"{path} holds no weights: {error}", advice="Write them with safetensors.") from error
    except Exception as error:
        # What PyTorch raises for a pickle of anything else is pickle's own error, whose module is imported nowhere.
        if type(error).__name__ != "UnpicklingError":
            raise
        raise WeightsUnavailable(
            f"{path} holds more than tensors, which is never read.", advice="Write its state_dict alone."
        ) from error
    for key in _NESTED:
        if isinstance(values, Mapping) and isinstance(values.get(key), Mapping):
            values = values[key]
    if not isinstance(values, Mapping):
        raise WeightsUnavailable(f"{path} holds no tensors by name.", advice="Write a state_dict.")
    tensors = {str(name): value for name, value in values.items() if isinstance(value, torch.Tensor)}
    if tensors and all(name.startswith(_PREFIX) for name in tensors):
        tensors = {name.removeprefix(_PREFIX): value for name, value in tensors.items()}
    return tensors
