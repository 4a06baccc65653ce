"""Persistence of one run: a folder with everything that was reached, each file whole or absent.

    runs/<id>/plan.toml              what was asked for, options of the command line included
    runs/<id>/checkpoint.safetensors the state after the last whole round; ``--resume`` starts from it
    runs/<id>/model.safetensors ...  the results, written at the end

A checkpoint is one file that replaces the one before by ``rename``: a run that is killed at any moment resumes from a
whole round. Evolution: keys of ``Progress`` are added with a default; ``format`` counts up when a meaning changes.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open

from hansa_common.errors import SettingsError, StorageError, UsageError
from hansa_common.files import storage, write_pieces, write_whole
from hansa_common.parameters import ParameterSpec, Vector, parts
from hansa_common.plan import StudyPlan, dump_plan, read_plan
from hansa_common.settings import Strict
from hansa_server import tensors
from hansa_server.results import RoundResult
from hansa_server.vectors import keep

_STRATEGY = "strategy/"  # prefix of the strategy's tensors in a checkpoint


class Progress(Strict):
    """What a study has done so far, beside its parameters."""

    format: Literal[1] = 1
    plan_digest: str
    simulation_digest: str
    engine: str
    spec: ParameterSpec
    rounds: tuple[RoundResult, ...]
    started_at: str
    setup_seconds: float
    rounds_seconds: float
    bytes_up: int
    bytes_down: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """The state after a whole round.

    Attributes:
        progress: What happened so far.
        parameters: ``float32 [P]``, the global model.
        strategy: What the aggregation strategy keeps over rounds.
    """

    progress: Progress
    parameters: Vector = field(repr=False)
    strategy: Mapping[str, npt.NDArray[np.float64]] = field(default_factory=dict, repr=False)


class RunFolder:
    """One run's folder, locked while a process works in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: int | None = None

    @classmethod
    def create(cls, path: Path) -> Self:
        """Make and lock a new folder.

        Raises:
            UsageError: There is something in it already.
            StorageError: It cannot be made.
        """
        if path.exists() and (not path.is_dir() or any(entry.name != ".lock" for entry in path.iterdir())):
            raise UsageError(
                f"{path} exists and is not empty.",
                advice=f"Continue that run with --resume {path}, or name another folder with --out.",
            )
        with storage(path, "create"):
            path.mkdir(parents=True, exist_ok=True)
        folder = cls(path)
        folder.lock()
        return folder

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open and lock the folder of an earlier run.

        Raises:
            UsageError: There is no run in it.
        """
        if not (path / "plan.toml").is_file():
            raise UsageError(f"{path} holds no run.", advice="--resume takes the folder that a run printed: runs/<id>.")
        folder = cls(path)
        folder.lock()
        return folder

    def lock(self) -> None:
        """Keep other processes out until this one ends.

        Raises:
            UsageError: Another process works in this folder.
        """
        with storage(self.path, "lock"):
            self._lock = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(
                f"Another process works in {self.path}.", advice="Wait for it or stop it; two cannot share a run."
            ) from None

    def close(self) -> None:
        """Let other processes in."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def write(self, name: str, content: bytes | str) -> Path:
        """Write a file of this run, whole or not at all.

        Raises:
            StorageError: The disk is full or fails; no part of the file is left.
        """
        path = self.path / name
        write_whole(path, content.encode() if isinstance(content, str) else content)
        return path

    def write_tensors(
        self, name: str, values: Mapping[str, npt.NDArray[Any]], metadata: Mapping[str, str] | None = None
    ) -> None:
        """Write a file of tensors, whole or not at all, and never in memory as a whole.

        Raises:
            StorageError: The disk is full or fails; no part of the file is left.
        """
        write_pieces(self.path / name, tensors.pieces(values, metadata))

    def save_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Replace the checkpoint.

        Raises:
            StorageError: It cannot be written; the one before is untouched.
        """
        progress = np.frombuffer(checkpoint.progress.model_dump_json().encode(), np.uint8)
        found: dict[str, npt.NDArray[Any]] = {"parameters": checkpoint.parameters, "progress": progress}
        found |= {_STRATEGY + name: values for name, values in checkpoint.strategy.items()}
        self.write_tensors("checkpoint.safetensors", found)

    def load_checkpoint(self) -> Checkpoint | None:
        """Return the last checkpoint, or ``None`` where the run did not get through its first round.

        Raises:
            StorageError: The file is there and broken.
        """
        with _checkpoint_file(self.path / "checkpoint.safetensors") as file:
            if file is None:
                return None
            names = [name for name in file.keys() if name.startswith(_STRATEGY)]  # noqa: SIM118 - no mapping
            stored = file.get_slice("parameters")
            (size,) = stored.get_shape()
            return Checkpoint(
                progress=_progress(file),
                parameters=keep((stored[part] for part in parts(size)), size, self.path),
                strategy={name.removeprefix(_STRATEGY): file.get_tensor(name) for name in names},
            )

    def rounds_done(self) -> int:
        """Return how many rounds the last checkpoint has, without its parameters.

        Raises:
            StorageError: The file is there and broken.
        """
        with _checkpoint_file(self.path / "checkpoint.safetensors") as file:
            return len(_progress(file).rounds) if file is not None else 0

    def save_plan(self, plan: StudyPlan) -> None:
        """Write what was asked for."""
        self.write("plan.toml", dump_plan(plan))

    def load_plan(self) -> StudyPlan:
        """Return what was asked for.

        Raises:
            StorageError: The file is broken.
        """
        try:
            return read_plan(self.path / "plan.toml")
        except SettingsError as error:
            raise StorageError(error.message, advice="Start the study anew from its file.") from error


@contextlib.contextmanager
def _checkpoint_file(path: Path) -> Iterator[Any]:
    """Open a checkpoint, or ``None`` where there is none; what is wrong with it is one error."""
    if not path.exists():
        yield None
        return
    try:
        with safe_open(path, framework="numpy") as file:
            yield file
    except (OSError, SafetensorError, ValidationError) as error:
        raise StorageError(
            f"{path} cannot be read back: {error}", advice="Restore it from a backup or start the study anew."
        ) from error


def _progress(file: Any) -> Progress:
    return Progress.model_validate_json(file.get_tensor("progress").tobytes())
