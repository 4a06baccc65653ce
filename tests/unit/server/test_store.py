import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hansa_common.errors import StorageError, UsageError
from hansa_common.files import write_whole
from hansa_common.parameters import ParameterSpec, Tensor
from hansa_common.plan import StudyPlan
from hansa_server.store import Checkpoint, Progress, RunFolder


def checkpoint(value: float = 1.0) -> Checkpoint:
    progress = Progress(
        plan_digest="ab" * 32,
        simulation_digest="",
        engine="local",
        spec=ParameterSpec(tensors=(Tensor(name="w", shape=(2, 2)),)),
        rounds=(),
        started_at="2026-01-01T00:00:00+00:00",
        setup_seconds=1.0,
        rounds_seconds=2.0,
        bytes_up=3,
        bytes_down=4,
    )
    return Checkpoint(
        progress=progress, parameters=np.full(4, value, np.float32), strategy={"momentum": np.array([0.1, 0.2])}
    )


def test_a_checkpoint_comes_back(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run")
    assert folder.load_checkpoint() is None
    folder.save_checkpoint(checkpoint())
    back = folder.load_checkpoint()
    assert back is not None
    assert back.progress == checkpoint().progress
    assert back.parameters.tolist() == [1.0] * 4
    assert back.strategy["momentum"].tolist() == [0.1, 0.2]


def test_a_plan_comes_back_with_its_digest(tmp_path: Path, make_plan: Callable[..., StudyPlan]) -> None:
    plan = make_plan(training={"class_weights": [1.0] * 10, "augmentation": {"noise": 0.1}})
    folder = RunFolder.create(tmp_path / "run")
    folder.save_plan(plan)
    assert folder.load_plan() == plan
    assert folder.load_plan().digest() == plan.digest()


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_full_disk_leaves_the_file_before_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    folder = RunFolder.create(tmp_path / "run")
    folder.save_checkpoint(checkpoint(1.0))
    files = sorted(path.name for path in folder.path.iterdir())

    def fail(*_arguments: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(*((os, "fsync", fail) if step == "fsync" else (Path, "replace", fail)))
        with pytest.raises(StorageError, match="No space left") as caught:
            folder.save_checkpoint(checkpoint(2.0))
    assert "--resume" in caught.value.advice
    assert sorted(path.name for path in folder.path.iterdir()) == files
    back = folder.load_checkpoint()
    assert back is not None
    assert back.parameters[0] == 1.0


def test_a_second_run_into_the_same_folder_is_refused(tmp_path: Path) -> None:
    RunFolder.create(tmp_path / "run").write("metrics.json", "{}")
    with pytest.raises(UsageError, match="not empty") as caught:
        RunFolder.create(tmp_path / "run")
    assert "--resume" in caught.value.advice


def test_two_processes_cannot_share_a_run(tmp_path: Path, small_plan: StudyPlan) -> None:
    folder = RunFolder.create(tmp_path / "run")
    folder.save_plan(small_plan)
    with pytest.raises(UsageError, match="Another process"):
        RunFolder.open(tmp_path / "run")
    folder.close()
    RunFolder.open(tmp_path / "run").close()


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no run"):
        RunFolder.open(tmp_path)


@pytest.mark.parametrize("content", [b"", b"garbage", b"\xff" * 64])
def test_a_broken_checkpoint_is_an_error_and_not_a_new_start(tmp_path: Path, content: bytes) -> None:
    folder = RunFolder.create(tmp_path / "run")
    write_whole(folder.path / "checkpoint.safetensors", content)
    with pytest.raises(StorageError, match="cannot be read back"):
        folder.load_checkpoint()


@pytest.mark.slow
def test_a_long_history_fits_into_a_checkpoint(tmp_path: Path) -> None:
    """The header of a safetensors file has a limit; the history is a tensor of its own."""
    base = checkpoint()
    progress = base.progress.model_copy(update={"started_at": "x" * (101 << 20)})
    folder = RunFolder.create(tmp_path / "run")
    folder.save_checkpoint(Checkpoint(progress=progress, parameters=base.parameters))
    back = folder.load_checkpoint()
    assert back is not None
    assert len(back.progress.started_at) == 101 << 20
    assert folder.rounds_done() == 0


def test_a_run_that_died_before_it_wrote_anything_does_not_block_its_folder(tmp_path: Path) -> None:
    RunFolder.create(tmp_path / "run").close()
    RunFolder.create(tmp_path / "run").close()
