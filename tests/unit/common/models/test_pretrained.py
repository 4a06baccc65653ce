"""Weights from a file: only tensors, only the file that the plan names."""

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from hansa_common.errors import WeightsUnavailable
from hansa_common.model_plan import BackbonePlan
from hansa_common.models.pretrained import read_weights

TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.tensor([1.0, 2.0])}


def backbone(path: Path) -> BackbonePlan:
    return BackbonePlan(file=path.name, sha256=hashlib.sha256(path.read_bytes()).hexdigest())


def write(path: Path, values: Any) -> BackbonePlan:
    if path.suffix == ".safetensors":
        save_file(values, path)
    else:
        torch.save(values, path)
    return backbone(path)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("w.safetensors", TENSORS),
        ("w.pt", TENSORS),
        ("w.pth", {"state_dict": TENSORS, "epoch": 3, "best": 0.5}),
        ("w.th", {"state_dict": {f"module.{name}": tensor for name, tensor in TENSORS.items()}}),
    ],
)
def test_the_usual_files_are_read(tmp_path: Path, name: str, values: Any) -> None:
    found = read_weights(write(tmp_path / name, values), tmp_path)
    assert set(found) == set(TENSORS)
    assert all(torch.equal(found[key], tensor) for key, tensor in TENSORS.items())


def test_another_file_is_refused_before_it_is_parsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "w.pt"
    wanted = write(path, TENSORS)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    monkeypatch.setattr(torch, "load", lambda *_args, **_options: pytest.fail("was parsed"))
    with pytest.raises(WeightsUnavailable, match="not the file that the plan names"):
        read_weights(wanted, tmp_path)


class Harmful:
    """Its pickle runs a command."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return (os.mkdir, (str(self.marker),))


def test_code_in_a_pickle_never_runs(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    wanted = write(tmp_path / "w.pt", {"a": Harmful(marker)})
    with pytest.raises(WeightsUnavailable, match="holds more than tensors"):
        read_weights(wanted, tmp_path)
    assert not marker.exists()
    torch.load(tmp_path / "w.pt", weights_only=False)
    assert marker.exists()  # the file is able to


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt"])
@pytest.mark.parametrize("content", [b"", b"no weights", b"\x08" + bytes(7) + b"[1,2,3]]"])
def test_a_broken_file_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsUnavailable, match=name):
        read_weights(backbone(tmp_path / name), tmp_path)


def test_what_is_no_mapping_holds_no_tensors_by_name(tmp_path: Path) -> None:
    with pytest.raises(WeightsUnavailable, match="holds no tensors by name"):
        read_weights(write(tmp_path / "w.pt", [torch.ones(2)]), tmp_path)


def test_a_missing_file_and_a_missing_folder_are_named(tmp_path: Path) -> None:
    wanted = BackbonePlan(file="w.pt", sha256="0" * 64)
    with pytest.raises(WeightsUnavailable, match=r"w.pt cannot be read: No such file"):
        read_weights(wanted, tmp_path)
    with pytest.raises(WeightsUnavailable, match="nothing says where weight files lie here"):
        read_weights(wanted, None)
