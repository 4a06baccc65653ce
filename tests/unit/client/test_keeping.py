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


def test_what_the_worker_left_is_taken_over(tmp_path: Path) -> None:
    keep_files(tmp_path / "scratch", {"examples.csv": b"1", "001-image.png": b"2"})
    assert take_files(tmp_path / "scratch", tmp_path / "models" / "s" / "explanations") == 2
    assert (tmp_path / "models" / "s" / "explanations" / "001-image.png").read_bytes() == b"2"
    assert not (tmp_path / "scratch").exists()
    assert take_files(tmp_path / "scratch", tmp_path / "models" / "s" / "explanations") == 0
    assert (tmp_path / "models" / "s" / "explanations" / "001-image.png").exists()


def test_a_worker_that_was_taken_over_cannot_lead_the_agent_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "MOST_BYTES", 10)
    secret = tmp_path / "keys"
    secret.write_bytes(b"secret")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    (scratch / "001.csv").symlink_to(secret)
    (scratch / "002.csv").mkdir()
    (scratch / "..hidden.csv").write_bytes(b"x")
    (scratch / "model.safetensors").write_bytes(b"x")
    (scratch / "003.csv").write_bytes(b"x" * 11)
    (scratch / "good.csv").write_bytes(b"x")
    os.mkfifo(scratch / "004.csv")
    assert take_files(scratch, tmp_path / "kept") == 1
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["good.csv"]
    assert secret.read_bytes() == b"secret"


def test_a_folder_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    keep_files(tmp_path / "other", {"001.csv": b"x"})
    (tmp_path / "scratch").symlink_to(tmp_path / "other")
    assert take_files(tmp_path / "scratch", tmp_path / "kept") == 0
    assert (tmp_path / "other" / "001.csv").exists()
