"""What one site keeps of one study from round to round: a file for each round that made it, and the personal model.

    <folder>/round-000012.safetensors   what round 12 left: control variates, local layers, a model of the site's own
    <folder>/personal.safetensors       the site's own model, made when the last model was evaluated

A task names the round whose state it builds on: the last one in which this site's update was counted. So a round that
came to nothing, an update that was refused and a process that was killed, here or there, never part state and model.
The state of a round is durable before its update leaves; older ones go then. Nothing of it ever leaves the site.

Evolution: a name is added as a new vector; a file that lacks one is refused by whoever needs it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load, save

from hansa_common.errors import StorageError, TaskRefused
from hansa_common.files import storage, write_whole
from hansa_common.parameters import ParameterSpec, Vector, is_finite

State = Mapping[str, Vector]
"""``float32`` vectors by name; empty before the first round."""

PERSONAL: Final = "personal.safetensors"
_FILE: Final = re.compile(r"round-(\d{6,7})\.safetensors")
_LOST: Final = "Restore the site's folder from a backup; without it this site cannot go on in this study."


@dataclass(frozen=True, slots=True, kw_only=True)
class PersonalModel:
    """A whole model of the site's own.

    Attributes:
        spec: Its tensors.
        vector: ``float32 [M]``.
    """

    spec: ParameterSpec
    vector: Vector = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What a task leaves at the site, beside the reply.

    Attributes:
        state: Of the round; empty where the task was none.
        personal: Of the closing exchange, where the plan personalises.
    """

    state: State = field(default_factory=dict, repr=False)
    personal: PersonalModel | None = None


class StateFolder:
    """One site's state in one study.

    Args:
        path: Made where it is missing, for this user only.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with storage(path, "create"):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)

    def load(self, basis: int) -> State:
        """Return the state that a round left; of round 0 there is none.

        Raises:
            TaskRefused: It is not here.
            StorageError: It cannot be read back.
        """
        if basis == 0:
            return {}
        path = self._round(basis)
        if not path.exists():
            raise TaskRefused(f"This site no longer has what it kept of round {basis}.", advice=_LOST)
        with storage(path, "read"):
            content = path.read_bytes()
        try:
            return {name: np.asarray(vector, np.float32) for name, vector in load(content).items()}
        except SafetensorError as error:
            raise StorageError(f"{path} cannot be read back.", advice=_LOST) from error

    def keep(self, kept: Kept, *, round_number: int, basis: int, about: Mapping[str, str]) -> None:
        """Keep what a task left, durably; then let go of rounds that no task can name any more.

        Args:
            kept: Of the work.
            round_number: That made the state.
            basis: Round on whose state it was built.
            about: What a personal model's file says of itself.

        Raises:
            StorageError: The disk is full or fails, or the values are no state.
        """
        vectors = [*kept.state.values(), *([kept.personal.vector] if kept.personal else [])]
        if not all(vector.ndim == 1 and is_finite(vector) for vector in vectors):
            raise StorageError("What training wants to keep holds NaN or infinity.", advice="Training diverged.")
        if kept.personal is not None:
            tensors = kept.personal.spec.split(kept.personal.vector)
            content = save({name: np.ascontiguousarray(values) for name, values in tensors}, dict(about))
            write_whole(self.personal, content, mode=0o600)
        if kept.state:
            write_whole(self._round(round_number), save(dict(kept.state)), mode=0o600)
            self._let_go({round_number, basis})

    @property
    def personal(self) -> Path:
        """Where the site's own model lies once there is one."""
        return self._path / PERSONAL

    def _round(self, number: int) -> Path:
        return self._path / f"round-{number:06}.safetensors"

    def _let_go(self, wanted: set[int]) -> None:
        with storage(self._path, "tidy"):
            for path in self._path.iterdir():
                found = _FILE.fullmatch(path.name)
                if found and int(found[1]) not in wanted:
                    path.unlink(missing_ok=True)


def hand_over(state: Path, models: Path) -> None:
    """Write the site's own model, where it has one, beside the common one that was delivered: the pair.

    One of another plan, whose study had this name, goes: it is no pair with this one, and still lies in its state.

    Args:
        state: The folder of the site's state in the study, named by the plan's digest.
        models: Where the common model lies.

    Raises:
        StorageError: The disk is full or fails.
    """
    own, there = state / PERSONAL, models / PERSONAL
    if not own.exists():
        with storage(there, "tidy"):
            if there.exists() and _plan_of(there) != state.name:
                there.unlink()
        return
    with storage(own, "read"):
        content = own.read_bytes()
    write_whole(there, content, mode=0o600)


def _plan_of(model: Path) -> str:
    """Return the digest of the plan that a model's file names; empty where it names none."""
    try:
        with safe_open(model, framework="numpy") as file:
            return str((file.metadata() or {}).get("plan_digest", ""))
    except SafetensorError:
        return ""
