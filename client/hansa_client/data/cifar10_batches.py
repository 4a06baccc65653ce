"""The two official formats of CIFAR-10: https://www.cs.toronto.edu/~kriz/cifar.html.

The binary version is records of one label byte and 3,072 pixel bytes (1,024 red, green, blue). The Python version is
pickle, which runs what a file tells it to. It is never unpickled here: ``pickletools.genops`` lists a file's opcodes
without executing them, and the pixels and labels are constants among them.
"""

import pickletools
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from hansa_client.data.class_names import Labels
from hansa_client.data.pixels import Pixels
from hansa_common.errors import DataUnavailable

_PIXELS = 3 * 32 * 32  # bytes of an image
_MAX_BATCH = 64 << 20  # bytes; the official batches have 30 MB
_TEXTS = frozenset({"SHORT_BINSTRING", "BINSTRING", "BINUNICODE", "SHORT_BINUNICODE", "SHORT_BINBYTES", "BINBYTES"})
_INTEGERS = frozenset({"BININT1", "BININT2", "BININT"})
_ADVICE = "Take the official binary version: https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz."


def read_batches(path: Path, names: Sequence[str]) -> tuple[Pixels, Labels]:
    """Read batches from an official archive or the folder it was unpacked to.

    Args:
        path: ``.tar.gz``, ``.tar`` or a folder.
        names: The batches, without ``.bin``; the result follows their order.

    Returns:
        Images ``uint8 [N, 32, 32, 3]`` and labels ``int64 [N]``.

    Raises:
        DataUnavailable: A batch is missing or broken.
    """
    batches = {}
    try:
        for file, content in _open_folder(path, names) if path.is_dir() else _open_archive(path, names):
            name = file.removesuffix(".bin")
            batches[name] = _read_binary(content) if file.endswith(".bin") else _read_pickled(content)
    except (OSError, EOFError, ValueError, tarfile.TarError, zlib.error) as error:
        raise DataUnavailable(f"{path} cannot be read as CIFAR-10: {error}.", advice=_ADVICE) from error
    missing = [name for name in names if name not in batches]
    if missing:
        raise DataUnavailable(f"{path} does not hold {', '.join(missing)} of CIFAR-10.", advice=_ADVICE)
    planes = np.concatenate([batches[name][0] for name in names]).reshape(-1, 3, 32, 32)
    labels = np.concatenate([batches[name][1] for name in names])
    return np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), labels


def _open_folder(path: Path, names: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    for name in names:
        for candidate in (f"{name}.bin", name):
            for file in (path / candidate, *sorted(path.glob(f"cifar-10-batches-*/{candidate}"))):
                if file.is_file():
                    _check_size(file.stat().st_size, candidate)
                    yield candidate, file.read_bytes()


def _open_archive(path: Path, names: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    wanted = {candidate for name in names for candidate in (name, f"{name}.bin")}
    with tarfile.open(path, "r:*") as archive:
        for member in archive:
            base = member.name.rsplit("/", 1)[-1]
            if base in wanted and member.isfile():
                _check_size(member.size, base)
                file = archive.extractfile(member)
                assert file is not None
                yield base, file.read()


def _check_size(size: int, name: str) -> None:
    if size > _MAX_BATCH:
        raise ValueError(f"{name} has {size:,} bytes, more than any batch")


def _read_binary(content: bytes) -> tuple[Pixels, Labels]:
    if not content or len(content) % (1 + _PIXELS):
        raise ValueError(f"a batch has {len(content):,} bytes, no multiple of {1 + _PIXELS:,}")
    records = np.frombuffer(content, dtype=np.uint8).reshape(-1, 1 + _PIXELS)
    return records[:, 1:], records[:, 0].astype(np.int64)


def _read_pickled(content: bytes) -> tuple[Pixels, Labels]:
    """Pick the integers behind the key ``labels`` and the one constant that is as long as that many images."""
    labels: list[int] = []
    pixels, key, column_major = b"", "", False
    for opcode, argument, _ in pickletools.genops(content):
        if opcode.name in _TEXTS:
            text = argument.encode("latin-1") if isinstance(argument, str) else bytes(argument or b"")
            if len(text) >= _PIXELS and not pixels:
                pixels = text
                if column_major:
                    raise ValueError("a batch lies in column order")
            key = text[:20].decode("latin-1")
        elif opcode.name in _INTEGERS and key == "labels":
            labels.append(int(argument or 0))
        elif opcode.name in {"NEWTRUE", "NEWFALSE"}:
            column_major = opcode.name == "NEWTRUE"  # the last one before an array's bytes is its order
    if not labels or len(pixels) != len(labels) * _PIXELS:
        raise ValueError(f"a batch of the Python version has {len(labels)} labels and {len(pixels):,} pixel bytes")
    return np.frombuffer(pixels, dtype=np.uint8).reshape(-1, _PIXELS), np.asarray(labels, dtype=np.int64)
