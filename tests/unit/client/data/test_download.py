import hashlib
import io
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hansa_client.data.download import RemoteFile, cache_folder, fetch
from hansa_common.errors import DataUnavailable, StorageError

CONTENT = bytes(range(256)) * 4_000


def remote(url: str) -> RemoteFile:
    return RemoteFile(url=url, name="file.bin", md5=hashlib.md5(CONTENT).hexdigest(), size=len(CONTENT))


def test_file_is_downloaded_once_and_nothing_else_is_left(tmp_path: Path, serve: Any) -> None:
    server = serve({"/f": CONTENT})
    folder = tmp_path / "new" / "cache"
    for _ in range(2):
        assert fetch(remote(server.url("/f")), folder=folder).read_bytes() == CONTENT
    assert server.requests == ["/f"]
    assert sorted(path.name for path in folder.iterdir()) == ["file.bin", "file.bin.lock"]


@pytest.mark.parametrize(
    ("path", "content", "message"),
    [
        ("/absent", CONTENT, "404"),
        ("/cut", CONTENT, "received 512,000 bytes|IncompleteRead"),
        ("/f", CONTENT[:-1] + b"?", "expected 1,024,000 bytes"),
        ("/f", CONTENT + bytes(5_000_000), "received 1,024,001 bytes"),
    ],
)
def test_anything_but_the_file_leaves_nothing(
    tmp_path: Path, serve: Any, path: str, content: bytes, message: str
) -> None:
    server = serve({"/f": content, "/cut": content})
    with pytest.raises(DataUnavailable, match=message) as caught:
        fetch(remote(server.url(path)), folder=tmp_path)
    assert "set path to it" in caught.value.advice
    assert [path.name for path in tmp_path.iterdir()] == ["file.bin.lock"]


def test_too_slow_and_no_server(tmp_path: Path, serve: Any) -> None:
    url = serve({"/f": CONTENT}).url("/f")
    with pytest.raises(DataUnavailable, match="took too long"):
        fetch(remote(url), folder=tmp_path, limit_seconds=-1.0)
    with pytest.raises(DataUnavailable, match="could not be downloaded"):
        fetch(remote("http://127.0.0.1:9/f"), folder=tmp_path, timeout_seconds=5.0)


def test_a_file_of_another_size_is_replaced(tmp_path: Path, serve: Any) -> None:
    (tmp_path / "file.bin").write_bytes(CONTENT[:10])
    assert fetch(remote(serve({"/f": CONTENT}).url("/f")), folder=tmp_path).read_bytes() == CONTENT


def test_processes_and_threads_share_one_download(tmp_path: Path, serve: Any) -> None:
    server = serve({"/f": CONTENT})
    threads = [
        threading.Thread(target=fetch, args=(remote(server.url("/f")),), kwargs={"folder": tmp_path}) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert server.requests == ["/f"]


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written"):
        fetch(remote("http://127.0.0.1:9/f"), folder=tmp_path / "file")


def test_other_schemes_are_a_bug(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="no web address"):
        fetch(replace(remote(""), url="file:///etc/hosts"), folder=tmp_path)


def test_progress_is_drawn_on_a_terminal(tmp_path: Path, serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    fetch(remote(serve({"/f": CONTENT}).url("/f")), folder=tmp_path)
    assert "file.bin" in terminal.getvalue()


def test_cache_folder_follows_the_desktop_standard(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "hansa"
    monkeypatch.setenv("HOME", str(tmp_path))
    for value in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert cache_folder() == tmp_path / ".cache" / "hansa"
