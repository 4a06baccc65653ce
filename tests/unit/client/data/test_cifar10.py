import hashlib
import io
import pickle
import struct
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hansa_client.data import ADAPTERS, Source, cifar10
from hansa_client.data.download import RemoteFile
from hansa_common.contract import ImageContract
from hansa_common.errors import DataUnavailable

CONTRACT = ImageContract(kind="image", channels=3, height=32, width=32, classes=cifar10.CLASSES, minimum_examples=1)
NAMES = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
RNG = np.random.default_rng(0)
PLANES = RNG.integers(0, 256, (6, 4, 3072), dtype=np.uint8)
LABELS = RNG.integers(0, 10, (6, 4))


def binary(batch: int) -> bytes:
    return b"".join(bytes([int(label)]) + bytes(row) for label, row in zip(LABELS[batch], PLANES[batch], strict=True))


def python2_pickle(batch: int, *, order: bytes = b"\x89") -> bytes:
    """What Python 2's cPickle wrote: strings as BINSTRING, the array by NumPy's old names."""
    pixels: bytes = PLANES[batch].tobytes()
    labels = b"".join(b"K" + bytes([label]) for label in LABELS[batch])
    return (
        b"\x80\x02}q\x01(U\x0bbatch_labelq\x02U\x15training batch 1 of 5q\x03U\x06labelsq\x04]q\x05("
        + labels
        + b"eU\x04dataq\x06cnumpy.core.multiarray\n_reconstruct\nq\x07cnumpy\nndarray\nq\x08K\x00\x85U\x01b\x87Rq\x09("
        + b"K\x01K\x04M\x00\x0c\x86cnumpy\ndtype\nq\nU\x02u1K\x00K\x01\x87Rq\x0b(K\x03U\x01|NNN"
        + b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        + order
        + b"T"
        + struct.pack("<i", len(pixels))
        + pixels
        + b"tbU\tfilenamesq\x0c]q\r(U\x05a.pngU\x05b.pngeu."
    )


def python3_pickle(batch: int, protocol: int) -> bytes:
    return pickle.dumps({"labels": LABELS[batch].tolist(), "data": PLANES[batch]}, protocol=protocol)


def archive(contents: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as file:
        for name, content in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def binary_archive() -> bytes:
    return archive(
        {f"cifar-10-batches-bin/{name}.bin": binary(number) for number, name in enumerate(NAMES)}
        | {"cifar-10-batches-bin/readme.html": b"x"}
    )


def check(path: Path, split: str, batches: list[int]) -> None:
    dataset = ADAPTERS["cifar10"](Source(path=path, options={"split": split}), CONTRACT)
    planes = PLANES[batches].reshape(-1, 3, 32, 32)
    assert dataset.features.shape == (len(planes), 32, 32, 3)
    for channel in range(3):
        assert np.array_equal(dataset.features[..., channel], planes[:, channel])
    assert np.array_equal(dataset.labels, LABELS[batches].reshape(-1))


@pytest.mark.parametrize(("split", "batches"), [("train", [0, 1, 2, 3, 4]), ("test", [5]), ("all", [0, 1, 2, 3, 4, 5])])
def test_binary_archive(tmp_path: Path, split: str, batches: list[int]) -> None:
    path = tmp_path / "cifar-10-binary.tar.gz"
    path.write_bytes(binary_archive())
    check(path, split, batches)


@pytest.mark.parametrize("inner", [".", "cifar-10-batches-bin"])
def test_binary_folder(tmp_path: Path, inner: str) -> None:
    (tmp_path / inner).mkdir(exist_ok=True)
    for number, name in enumerate(NAMES):
        (tmp_path / inner / f"{name}.bin").write_bytes(binary(number))
    check(tmp_path, "train", [0, 1, 2, 3, 4])


def test_python_version_is_read_without_unpickling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: Any, **__: Any) -> None:
        raise AssertionError("unpickled")

    contents = {f"cifar-10-batches-py/{name}": python2_pickle(number) for number, name in enumerate(NAMES)}
    oracle = pickle.loads(contents["cifar-10-batches-py/test_batch"], encoding="latin-1")  # the test's own bytes
    assert np.array_equal(oracle["data"], PLANES[5])
    path = tmp_path / "cifar-10-python.tar.gz"
    path.write_bytes(archive(contents))
    monkeypatch.setattr(pickle, "loads", forbidden)
    monkeypatch.setattr(pickle, "Unpickler", forbidden)
    check(path, "all", [0, 1, 2, 3, 4, 5])


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_python_version_written_again_by_python_3(tmp_path: Path, protocol: int) -> None:
    (tmp_path / "test_batch").write_bytes(python3_pickle(5, protocol))
    check(tmp_path, "test", [5])


def test_pickle_is_never_executed(tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    (tmp_path / "test_batch").write_bytes(b"cos\nsystem\n(S'touch " + str(marker).encode() + b"'\ntR.")
    with pytest.raises(DataUnavailable, match="0 labels and 0 pixel bytes"):
        ADAPTERS["cifar10"](Source(path=tmp_path, options={"split": "test"}), CONTRACT)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (python2_pickle(5, order=b"\x88"), "column order"),
        (python2_pickle(5)[:5000], "cannot be read"),
        (b"", "cannot be read"),
        (b"no pickle at all", "cannot be read"),
    ],
)
def test_broken_python_batches_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "test_batch").write_bytes(content)
    with pytest.raises(DataUnavailable, match=message) as caught:
        ADAPTERS["cifar10"](Source(path=tmp_path, options={"split": "test"}), CONTRACT)
    assert "binary version" in caught.value.advice


def test_incomplete_and_broken_archives_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.tar.gz"
    path.write_bytes(archive({"data_batch_1.bin": binary(0)}))
    with pytest.raises(DataUnavailable, match="does not hold data_batch_2, data_batch_3"):
        ADAPTERS["cifar10"](Source(path=path), CONTRACT)
    path.write_bytes(archive({"test_batch.bin": binary(0)[:-1]}))
    with pytest.raises(DataUnavailable, match="no multiple of 3,073"):
        ADAPTERS["cifar10"](Source(path=path, options={"split": "test"}), CONTRACT)
    path.write_bytes(binary_archive()[:-3000])
    with pytest.raises(DataUnavailable, match="cannot be read as CIFAR-10"):
        ADAPTERS["cifar10"](Source(path=path), CONTRACT)


def test_labels_follow_the_contracts_order_of_the_official_names(tmp_path: Path) -> None:
    (tmp_path / "test_batch.bin").write_bytes(binary(5))
    contract = CONTRACT.model_copy(update={"classes": tuple(reversed(cifar10.CLASSES))})
    dataset = ADAPTERS["cifar10"](Source(path=tmp_path, options={"split": "test"}), contract)
    assert np.array_equal(9 - dataset.labels, LABELS[5])


def test_downloads_once_where_there_is_no_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, serve: Any) -> None:
    content = binary_archive()
    server = serve({"/c.tar.gz": content})
    remote = RemoteFile(
        url=server.url("/c.tar.gz"), name="c.tar.gz", md5=hashlib.md5(content).hexdigest(), size=len(content)
    )
    monkeypatch.setattr(cifar10, "OFFICIAL", remote)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for _ in range(2):
        dataset = ADAPTERS["cifar10"](Source(), CONTRACT)
        assert np.array_equal(dataset.labels, LABELS[:5].reshape(-1))
    assert server.requests == ["/c.tar.gz"]
    assert (tmp_path / "hansa" / "c.tar.gz").is_file()


@pytest.mark.needs_data
@pytest.mark.parametrize(("split", "count"), [("train", 10_000), ("test", 2_000), ("all", 12_000)])
def test_real_images_from_npz(real_data: Path, split: str, count: int) -> None:
    path = real_data / "cifar10" / "cifar10_10k_2k.npz"
    dataset = ADAPTERS["cifar10"](Source(path=path, options={"split": split}), CONTRACT)
    assert dataset.features.shape == (count, 32, 32, 3)
    assert np.bincount(dataset.labels).tolist() == [count // 10] * 10
