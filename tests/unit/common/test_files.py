import errno
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from hansa_common.errors import IdentityError, StorageError
from hansa_common.files import read_secret, write_secret, write_whole


def fail(code: int) -> Any:
    def call(*_arguments: Any, **_options: Any) -> None:
        raise OSError(code, os.strerror(code))

    return call


def test_a_file_is_replaced_whole_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "state"
    write_whole(path, b"first")
    write_whole(path, b"second", mode=0o600)
    assert path.read_bytes() == b"second"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("module", "name", "code"),
    [(os, "fsync", errno.EIO), (Path, "replace", errno.ENOSPC), (Path, "chmod", errno.EROFS)],
)
def test_when_the_disk_fails_the_file_is_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: Any, name: str, code: int
) -> None:
    path = tmp_path / "state"
    write_whole(path, b"first")
    with monkeypatch.context() as patch:
        patch.setattr(module, name, fail(code))
        with pytest.raises(StorageError, match=os.strerror(code)):
            write_whole(path, b"second")
    assert path.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [path]


def test_content_and_folder_are_durable_before_it_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    real = os.fsync

    def note(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    write_whole(tmp_path / "state", b"content")
    assert len(synced) == 2
    assert synced[0].startswith(".state.")
    assert synced[1] == tmp_path.name


def test_a_secret_is_for_its_owner_only_and_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    write_secret(path, b"secret")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_secret(path) == b"secret"
    with pytest.raises(StorageError, match="exists already"):
        write_secret(path, b"another")
    assert path.read_bytes() == b"secret"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o610, 0o644, 0o666])
def test_a_secret_that_others_can_reach_is_not_read(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "key.pem"
    write_secret(path, b"secret")
    path.chmod(mode)
    with pytest.raises(IdentityError, match="chmod 600"):
        read_secret(path)


def test_a_missing_secret_says_so(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="No such file"):
        read_secret(tmp_path / "key.pem")
