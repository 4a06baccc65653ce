"""A model whose floating-point state is one vector: loading, reading and stepping it are one operation each.

The vector holds the trainable parameters, then all other floating-point state (frozen parameters, the running
statistics of batch normalisation), which federated averaging averages too. Buffers that are not floating-point or not
part of the module's ``state_dict`` stay local and start each load as they were built, so that what a round computes
depends on its inputs only and not on what this process did before. What a plan's backbone fixes is in no vector: it is
the same at every site, by the hash of its file.

Weights stay in their usual layout, also for images: oneDNN repacks them in every call anyway, and a convolution runs
channels-last where its input is.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final
from weakref import WeakValueDictionary

import numpy as np
import torch
from torch import nn

from hansa_client.training.optimizer import Group
from hansa_common.model_plan import BackbonePlan
from hansa_common.models.assembly import Assembled, assemble
from hansa_common.parameters import ParameterSpec, Vector
from hansa_common.parameters import Tensor as TensorSpec
from hansa_common.plan import StudyPlan

_NOTHING: Final[Mapping[str, float]] = {}
_folders: dict[str, Path | None] = {}
"""Of weight files, by the hash of the file that a plan names: what is found there is compared with it."""
_NORMALISATION = (
    nn.modules.batchnorm._NormBase,  # noqa: SLF001 - of batch and instance normalisation
    nn.GroupNorm,
    nn.LayerNorm,
    nn.RMSNorm,
)


def offer_weights(backbone: BackbonePlan, folder: Path | None) -> None:
    """Say where this process finds the file that a plan names; a site does so before its model is built."""
    _folders[backbone.sha256] = folder


def build_module(plan: StudyPlan, seed: int) -> Assembled:
    """Return the plan's model, freshly initialised on the CPU; the process's own generator is left as it was.

    Raises:
        WeightsUnavailable, TrainingError, UsageError: As ``assemble``, of a plan with a backbone.
    """
    backbone = plan.model.backbone
    folder = _folders.get(backbone.sha256) if backbone is not None else None
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return assemble(plan.model, plan.data, folder=folder)


def _floating_state(module: nn.Module, fixed: frozenset[str]) -> dict[str, torch.Tensor]:
    """Return parameters and persistent floating-point buffers that are not fixed, by name, the trainable ones first."""
    persistent = {name: tensor for name, tensor in module.state_dict(keep_vars=True).items() if name not in fixed}
    buffers = {name: tensor for name, tensor in module.named_buffers() if name in persistent}
    parameters = {name: tensor for name, tensor in module.named_parameters() if name not in fixed}
    trainable = {name: tensor for name, tensor in parameters.items() if tensor.requires_grad}
    return trainable | {name: tensor for name, tensor in (parameters | buffers).items() if tensor.is_floating_point()}


def initial_parameters(plan: StudyPlan, seed: int) -> Vector:
    """Return freshly initialised parameters ``float32 [P]``, the same for one seed on every machine."""
    assembled = build_module(plan, seed)
    state = _floating_state(assembled.module, assembled.fixed)
    flat = torch.cat([tensor.detach().reshape(-1).to(torch.float32) for tensor in state.values()])
    return np.asarray(flat.numpy(), dtype=np.float32)


class FlatModel:
    """A module on a device, its state a flat vector ``float32 [P]``; for one thread at a time.

    Args:
        module: Taken over: its tensors become views of the vector.
        device: Where it computes.
        fixed: Names of tensors that are in no vector and stay as the module has them.
        factors: On the learning rate, by the name of a tensor; 1 for the others.

    Attributes:
        module: The network.
        spec: The tensors of the vector.
        trainable: The vector's first part as one parameter, its gradient attached; an optimiser needs no more, because
            its steps work element by element.
        groups: Parts of the trainable vector by their factor of the learning rate; empty where all have 1.
    """

    def __init__(
        self,
        module: nn.Module,
        device: torch.device,
        *,
        fixed: frozenset[str] = frozenset(),
        factors: Mapping[str, float] = _NOTHING,
    ) -> None:
        self.module = module.to(device=device, dtype=torch.float32)
        state = _floating_state(module, fixed)
        self.spec = ParameterSpec(
            tensors=tuple(TensorSpec(name=name, shape=tuple(tensor.shape)) for name, tensor in state.items())
        )
        self._host = torch.zeros(self.spec.size)
        self._values: Vector = self._host.numpy()
        self._state = self._host if device.type == "cpu" else torch.zeros(self.spec.size, device=device)
        trained = sum(tensor.numel() for tensor in state.values() if tensor.requires_grad)
        self.trainable = nn.Parameter(self._state[:trained])
        self.trainable.grad = self._gradient = torch.zeros(trained, device=device)
        self._attach(state)
        self.groups = _groups(state, factors)
        self._local = [
            (buffer, buffer.clone())
            for name, buffer in self.module.named_buffers()
            if name not in state and name not in fixed
        ]

    def _attach(self, state: dict[str, torch.Tensor]) -> None:
        offset = 0
        for tensor in state.values():
            part = slice(offset, offset + tensor.numel())
            tensor.data = self._state[part].view(tensor.shape)
            if tensor.requires_grad:
                tensor.grad = self._gradient[part].view(tensor.shape)
            offset = part.stop

    def load(self, parameters: Vector) -> None:
        """Take over a vector ``float32 [P]``.

        Raises:
            RuntimeError: It is of another shape or type.
        """
        if parameters.shape != self._values.shape or parameters.dtype != np.float32:
            raise RuntimeError(
                f"The model has {self._values.size} float32 values, not {parameters.dtype}{parameters.shape}."
            )
        self._values[:] = parameters
        if self._state is not self._host:
            self._state.copy_(self._host)
        for buffer, built in self._local:
            buffer.copy_(built)

    def minus(self, parameters: Vector) -> Vector:
        """Return the model's state minus ``parameters``, ``float32 [P]``."""
        if self._state is not self._host:
            self._host.copy_(self._state)
        return self._values - parameters

    @property
    def normalisation_tensors(self) -> frozenset[str]:
        """Names of the tensors of all normalisation layers: scale, shift and running statistics."""
        layers = [name for name, layer in self.module.named_modules() if isinstance(layer, _NORMALISATION)]
        names = [tensor.name for tensor in self.spec.tensors]
        return frozenset(name for name in names if name.rpartition(".")[0] in layers)

    @property
    def gradient(self) -> torch.Tensor:
        """The gradient of ``trainable``, ``float32 [T]``: what an optimiser will read."""
        return self._gradient

    def clear_gradient(self) -> None:
        """Set the gradient to zero; it stays in place, because the module's gradients are views of it."""
        self._gradient.zero_()


def _groups(state: dict[str, torch.Tensor], factors: Mapping[str, float]) -> tuple[Group, ...]:
    """Join neighbours with one factor; their parts follow each other from the vector's start."""
    if not factors:
        return ()
    groups: list[Group] = []
    offset = 0
    for name, tensor in state.items():
        if not tensor.requires_grad:
            break
        factor, stop = factors.get(name, 1.0), offset + tensor.numel()
        start = groups.pop().part.start if groups and groups[-1].factor == factor else offset
        groups.append(Group(part=slice(start, stop), factor=factor))
        offset = stop
    return tuple(groups)


def build_flat_model(plan: StudyPlan, seed: int, device: torch.device) -> FlatModel:
    """Return a flat model of the plan, freshly initialised; raises as ``build_module``."""
    assembled = build_module(plan, seed)
    return FlatModel(assembled.module, device, fixed=assembled.fixed, factors=assembled.factors)


_shared: WeakValueDictionary[tuple[str, torch.device], FlatModel] = WeakValueDictionary()


def shared_model(plan: StudyPlan, device: torch.device) -> FlatModel:
    """Return this process's one model of a plan on a device; it lives as long as a site holds it.

    A simulation has a thousand sites in one process, which take turns: each loads its parameters before use.
    """
    key = (plan.digest(), device)
    model = _shared.get(key)
    if model is None:
        model = _shared[key] = build_flat_model(plan, plan.seed, device)
    return model
