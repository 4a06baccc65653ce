import os
from pathlib import Path

import pytest

from hansa_client import keeping
from hansa_client.keeping import keep_files, take_files


def test_only_their_owner_can_read_them_and_older_ones_go(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "kept"
    keep_files(folder, {"001.csv": b"old"})
    keep_files(folder, {"002.csv": b"new"})
    assert [path.name for path in folder.iterdir()] == ["002.csv"]
    assert (folder / "002.csv").stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700


def test_without_a_folder_or_files_nothing_is_written(tmp_path: Path) -> None:
    keep_files(None, {"001.csv": b"x"})
    keep_files(tmp_path / "kept", {})
    assert list(tmp_path.iterdir()) == []


PLACE = ("explanations", "ab" * 32)


def left(scratch: Path) -> Path:
    return scratch / PLACE[0] / PLACE[1]


def test_what_the_worker_left_is_taken_over(tmp_path: Path) -> None:
    kept = tmp_path / "models" / "s" / "explanations"
    keep_files(left(tmp_path), {"examples.csv": b"1", "001-image.png": b"2"})
    assert take_files(tmp_path, PLACE, kept) == 2
    assert (kept / "001-image.png").read_bytes() == b"2"
    assert not left(tmp_path).exists()
    assert take_files(tmp_path, PLACE, kept) == 0
    assert (kept / "001-image.png").exists()


def test_a_worker_that_was_taken_over_cannot_lead_the_agent_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "MOST_BYTES", 10)
    secret = tmp_path / "keys"
    secret.write_bytes(b"secret")
    folder = left(tmp_path / "scratch")
    folder.mkdir(parents=True)
    (folder / "001.csv").symlink_to(secret)
    (folder / "002.csv").mkdir()
    (folder / "..hidden.csv").write_bytes(b"x")
    (folder / "model.safetensors").write_bytes(b"x")
    (folder / "003.csv").write_bytes(b"x" * 11)
    (folder / "good.csv").write_bytes(b"x")
    os.mkfifo(folder / "004.csv")
    assert take_files(tmp_path / "scratch", PLACE, tmp_path / "kept") == 1
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["good.csv"]
    assert secret.read_bytes() == b"secret"


@pytest.mark.parametrize("depth", [0, 1])
def test_a_folder_that_is_a_link_is_not_followed(tmp_path: Path, depth: int) -> None:
    # what a link would lead to: the site keeps the state of its secure aggregation under the very same name
    masking = tmp_path / "masking" / PLACE[1]
    keep_files(masking, {"001.csv": b"x"})
    (masking / "memory.json").write_bytes(b"{}")
    scratch = tmp_path / "scratch"
    link = left(scratch) if depth else scratch / PLACE[0]
    link.parent.mkdir(parents=True)
    link.symlink_to(masking if depth else masking.parent)
    assert take_files(scratch, PLACE, tmp_path / "kept") == 0
    assert (masking / "memory.json").exists()
    assert not (tmp_path / "kept").exists()
