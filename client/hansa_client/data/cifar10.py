"""``cifar10``: 60,000 colour images of 32 x 32 in ten classes (Krizhevsky 2009), from a path or by download.

The path is an archive or folder of the official binary or Python version, or an ``.npz`` with ``x_train``, ``y_train``,
``x_test`` and ``y_test``. Without a path the binary version is downloaded once into the user's cache.
"""

from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from hansa_client.data.cifar10_batches import read_batches
from hansa_client.data.class_names import Labels, reorder
from hansa_client.data.contract_check import check
from hansa_client.data.download import RemoteFile, fetch
from hansa_client.data.files import require_path
from hansa_client.data.npz import read_arrays
from hansa_client.data.pixels import Pixels, fit_pixels
from hansa_client.data.source import ADAPTERS, Dataset, Source
from hansa_common.errors import DataUnavailable
from hansa_common.models.registry import Contract
from hansa_common.settings import Strict, parse

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

OFFICIAL = RemoteFile(
    url="https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
    name="cifar-10-binary.tar.gz",
    md5="c32a1d4ab5d03f1284b67883e8d87530",  # as published at https://www.cs.toronto.edu/~kriz/cifar.html
    size=170_052_171,
)

_BATCHES = {
    "train": ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5"),
    "test": ("test_batch",),
}


class Cifar10Options(Strict):
    """Options of the adapter ``cifar10``."""

    split: Literal["train", "test", "all"] = "train"
    """The official training images, test images, or both."""


@ADAPTERS.register("cifar10")
def read(source: Source, contract: Contract) -> Dataset:
    """Return images ``uint8 [N, 32, 32, 3]``, padded as the contract asks, or arrays in 0..1.

    Labels follow the order of the contract's classes where it has the official names, and the official order otherwise.

    Raises:
        DataUnavailable: The files are missing, incomplete or broken, or the download failed.
        ContractViolation: The contract asks for something else.
        SettingsError: An option is unknown or wrong.
    """
    options = parse(Cifar10Options, source.options, origin="data adapter 'cifar10'")
    path = fetch(OFFICIAL) if source.path is None else require_path(source, adapter="cifar10", folder=None)
    splits = ("train", "test") if options.split == "all" else (options.split,)
    if path.suffix == ".npz":
        pixels, labels = _read_npz(path, splits)
    else:
        pixels, labels = read_batches(path, [name for split in splits for name in _BATCHES[split]])
    features = fit_pixels(pixels, contract, origin=f"CIFAR-10 ({path})")
    labels = reorder(labels, CLASSES, contract.classes)
    return check(Dataset(features=features, labels=labels, origin=f"CIFAR-10, {options.split} ({path})"), contract)


def _read_npz(path: Path, splits: tuple[str, ...]) -> tuple[Pixels, Labels]:
    arrays = read_arrays(path, [f"{part}_{split}" for split in splits for part in ("x", "y")])
    for split in splits:
        pixels, labels = arrays[f"x_{split}"], arrays[f"y_{split}"]
        if pixels.dtype != np.uint8 or pixels.shape[1:] != (32, 32, 3) or labels.dtype.kind not in "iu":
            raise DataUnavailable(
                f"{path}: x_{split} is {pixels.dtype} {list(pixels.shape)} and y_{split} {labels.dtype}; expected "
                "uint8 [examples, 32, 32, 3] and whole numbers.",
                advice="Convert the archive, or use the adapter 'npz'.",
            )
    pixels = np.concatenate([arrays[f"x_{split}"] for split in splits])
    joined: npt.NDArray[np.int64] = np.concatenate([arrays[f"y_{split}"].reshape(-1) for split in splits]).astype(
        np.int64
    )
    return pixels, joined
