"""Ensembles at prediction time: the mean answer of several models of one plan.

Members are the last versions of a study's model, or the sites' own models. Of classes the probabilities are averaged
(Lakshminarayanan, Pritzel, Blundell, "Simple and Scalable Predictive Uncertainty Estimation using Deep Ensembles",
NeurIPS 2017, section 2.4), of anything else the outputs: numbers, log hazards, reconstructions.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hansa_common.errors import UsageError
from hansa_common.model_plan import ModelPlan
from hansa_common.models.assembly import load_model
from hansa_common.models.outputs import target_kind
from hansa_common.models.registry import Contract

if TYPE_CHECKING:
    from torch import Tensor, nn


def load_members(folder: Path) -> "list[dict[str, Tensor]]":
    """Return the members of an ensemble from a folder, the oldest first.

    Args:
        folder: ``versions`` of a run, or beside the model that a site was given; or any folder of ``.safetensors``
            files of one plan.

    Raises:
        UsageError: There is none, or one is no such file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    paths = sorted(folder.glob("*.safetensors"))
    if not paths:
        raise UsageError(f"{folder} holds no .safetensors file.", advice="Name the folder 'versions' of a run.")
    try:
        return [load_file(path) for path in paths]
    except (OSError, SafetensorError) as error:
        raise UsageError(f"A file in {folder} cannot be read: {error}") from error


def load_ensemble(
    model: ModelPlan, data: Contract, members: "Sequence[Mapping[str, Tensor]]", *, folder: Path | None
) -> "nn.Module":
    """Return one network that answers as all members together, ready to predict.

    It returns what a member returns: of classes log probabilities ``[N, K]``, whose softmax is the mean of the members'
    probabilities, else the mean of the members' outputs.

    Args:
        model: Of the plan.
        data: Its contract.
        members: The tensors of each, as ``load_model`` takes them.
        folder: Where the backbone's file lies.

    Raises:
        UsageError: There are no members.
        WeightsUnavailable: As ``load_model``.
    """
    from hansa_common.models.networks.mean_answer import MeanAnswer

    if not members:
        raise UsageError("An ensemble needs at least one model.")
    networks = [load_model(model, data, tensors, folder=folder) for tensors in members]
    return MeanAnswer(networks, are_logits=target_kind(data) == "classes").eval()
