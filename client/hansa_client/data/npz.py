"""``npz``: NumPy's archive of named arrays, read without pickle and bounded before memory is taken."""

import math
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from hansa_client.data.class_names import index_names, reorder
from hansa_client.data.contract_check import check
from hansa_client.data.files import MAX_ARRAY, require_path
from hansa_client.data.learned import strata
from hansa_client.data.source import ADAPTERS, Dataset, Source
from hansa_common.contract import ImageContract, NumberTarget, SurvivalTarget, TableContract, target_columns
from hansa_common.errors import ContractViolation, DataUnavailable, SettingsError
from hansa_common.models.registry import Contract
from hansa_common.registry import suggest
from hansa_common.settings import Strict, parse

_HEADER = 64 << 10  # bytes; a header of NumPy's format is below one kilobyte

Key = Annotated[str, Field(min_length=1, max_length=200)]
Arrays = Mapping[str, npt.NDArray[Any]]

_FEATURES = ("x", "X", "features", "images", "data", "x_train")
_LABELS = ("y", "Y", "labels", "label", "targets", "y_train")


class NpzOptions(Strict):
    """Options of the adapter ``npz``."""

    features: Key | None = None
    """Name of the array with the examples; ``x`` or another usual name where left out."""
    labels: Key | None = None
    """Name of the array with the labels, class indices or class names; ``y`` or another usual name where left out."""
    columns: tuple[Key, ...] = ()
    """Names of arrays ``[N]`` that a ``column:NAME`` partition may split by."""


@ADAPTERS.register("npz")
def read(source: Source, contract: Contract) -> Dataset:
    """Return images ``uint8 [N, H, W, C]`` (or ``[N, H, W]`` with one channel), or arrays ``[N, *shape]`` as float32.

    An array ``classes`` with the contract's names in another order puts the labels in the contract's order.

    Raises:
        DataUnavailable: The file is missing, broken, too large, holds pickled objects or has no such array.
        ContractViolation: Shapes, types or labels do not fulfil the contract, or the contract is for tables.
        SettingsError: An option is unknown or wrong.
    """
    options = parse(NpzOptions, source.options, origin="data adapter 'npz'")
    path = require_path(source, adapter="npz", folder=False)
    names = array_names(path)
    features_key = _choose(options.features, _FEATURES, names, path)
    labels_key = _labels_key(options, contract, names, path)
    further = dict.fromkeys((*options.columns, *(name for name in source.columns if name in names)))
    learned = target_columns(contract) if labels_key is None else (labels_key,)
    wanted = dict.fromkeys((features_key, *learned, *further, *({"classes"} & names)))
    arrays = read_arrays(path, wanted)
    labels, targets = _to_learned(arrays, learned, contract, count=len(arrays[features_key]), origin=str(path))
    columns = {name: _to_column(arrays[name], name, len(labels), path) for name in further}
    features = to_features(arrays[features_key], contract, origin=f"{path} ({features_key})")
    return check(
        Dataset(features=features, labels=labels, targets=targets, columns=columns, origin=str(path)), contract
    )


def array_names(path: Path) -> set[str]:
    """Return the names of the arrays in an archive.

    Raises:
        DataUnavailable: It is no NPZ archive.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return {name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")}
    except (OSError, zipfile.BadZipFile) as error:
        raise DataUnavailable(f"{path} is no NPZ archive: {error}.", advice="Write it with numpy.savez.") from error


def read_arrays(path: Path, names: Iterable[str]) -> Arrays:
    """Read some arrays of an archive, each of at most ``MAX_ARRAY`` bytes and exactly as long as its header says.

    Raises:
        DataUnavailable: An array is absent, broken, too large or holds Python objects, which only pickle could read.
    """
    present = array_names(path)
    arrays = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for name in names:
                if name not in present:
                    raise DataUnavailable(f"{path} has no array '{name}'.", advice=suggest(name, sorted(present)))
                member = archive.getinfo(f"{name}.npy")
                if member.file_size > MAX_ARRAY:
                    raise DataUnavailable(
                        f"{path}: the array '{name}' has {member.file_size:,} bytes; at most {MAX_ARRAY:,} are read.",
                        advice="Write fewer examples or a smaller type.",
                    )
                with archive.open(member) as file:
                    _check_header(file, member.file_size)
                with archive.open(member) as file:
                    arrays[name] = np.lib.format.read_array(file, allow_pickle=False)
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        raise DataUnavailable(
            f"{path} cannot be read: {error}.", advice="Write it again with numpy.savez; object arrays are never read."
        ) from error
    return arrays


def _check_header(file: IO[bytes], size: int) -> None:
    """Compare what an array claims with what is there, because NumPy takes the memory before it reads.

    Raises:
        ValueError: It claims another size, or to hold Python objects.
    """
    version = np.lib.format.read_magic(file)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in readers:
        raise ValueError(f"its format {version} is not known")
    shape, _, dtype = readers[version](file)
    if dtype.hasobject:
        raise ValueError("it holds Python objects")
    claimed = math.prod(shape) * dtype.itemsize
    if not size - _HEADER <= claimed <= size:
        raise ValueError(f"its header claims {claimed:,} bytes and {size:,} are there")


def to_features(
    array: npt.NDArray[Any], contract: Contract, *, origin: str
) -> npt.NDArray[np.uint8] | npt.NDArray[np.float32]:
    """Give an array the type of the contract: images stay ``uint8``, numbers become ``float32``.

    Raises:
        ContractViolation: The contract is for tables, or the type does not fit.
    """
    if isinstance(contract, TableContract):
        raise ContractViolation(
            f"{origin} holds arrays; the study asks for data of kind 'table'.", advice="Use 'csv' or 'parquet'."
        )
    if isinstance(contract, ImageContract):
        if array.dtype != np.uint8:
            raise ContractViolation(
                f"{origin} holds {array.dtype}; images are uint8 in 0 to 255.", advice="Scale and convert the images."
            )
        return array[..., None] if array.ndim == 3 and contract.channels == 1 else array  # noqa: PLR2004 [N, H, W]
    if array.dtype.kind not in "fiub":
        raise ContractViolation(f"{origin} holds {array.dtype}; expected real numbers.")
    with np.errstate(over="ignore"):  # what is too large becomes infinite, and the check names the example
        return array.astype(np.float32)


def _choose(option: str | None, usual: tuple[str, ...], names: set[str], path: Path) -> str:
    if option is not None:
        return option
    for name in usual:
        if name in names:
            return name
    raise DataUnavailable(
        f"{path} has none of the arrays {', '.join(usual)}.",
        advice=f"Name the array by an option (features, labels); the file has: {', '.join(sorted(names))}.",
    )


def _labels_key(options: NpzOptions, contract: Contract, names: set[str], path: Path) -> str | None:
    """Return the array with classes or numbers; ``None`` where the contract's target names its own."""
    if contract.target is None or contract.target.kind == "number":
        return _choose(options.labels, _LABELS, names, path)
    if options.labels is not None:
        raise SettingsError(
            f"data.target.kind = '{contract.target.kind}' names its own arrays; the option 'labels' is for classes and "
            "numbers.",
            path="labels",
            advice="Leave the option out.",
        )
    return None


def _to_learned(
    arrays: Arrays, names: tuple[str, ...], contract: Contract, *, count: int, origin: str
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32] | None]:
    """Return labels and targets as ``Dataset`` has them."""
    match contract.target:
        case None:
            return _to_labels(arrays[names[0]], arrays.get("classes"), contract, origin=origin), None
        case NumberTarget():
            numbers = _to_numbers(arrays[names[0]], names[0], origin=origin)
            return strata(numbers), numbers
        case SurvivalTarget():
            events = _to_positions(arrays[names[1]], names[1], ("0", "1"), origin=origin)
            return events, _to_numbers(arrays[names[0]], names[0], origin=origin)
    if not names:
        return np.zeros(count, np.int64), None
    normal = contract.target.normal
    positions = _to_positions(arrays[names[0]], names[0], (*normal, *contract.target.anomalous), origin=origin)
    return (positions >= len(normal)).astype(np.int64), None


def _to_numbers(array: npt.NDArray[Any], name: str, *, origin: str) -> npt.NDArray[np.float32]:
    array = array.reshape(-1) if array.ndim == 2 and array.shape[1] == 1 else array  # noqa: PLR2004 one column [N, 1]
    if array.ndim != 1 or array.dtype.kind not in "fiub":
        raise ContractViolation(
            f"{origin}: '{name}' is {array.dtype} {list(array.shape)}; expected numbers [examples]."
        )
    with np.errstate(over="ignore"):  # what is too large becomes infinite, and the check says so
        return array.astype(np.float32)


def _to_positions(
    array: npt.NDArray[Any], name: str, allowed: tuple[str, ...], *, origin: str
) -> npt.NDArray[np.int64]:
    if array.ndim != 1 or array.dtype.kind not in "iubU":
        raise ContractViolation(
            f"{origin}: '{name}' is {array.dtype} {list(array.shape)}; expected texts or whole numbers [examples]."
        )
    texts = array.astype(np.int64).astype(np.str_) if array.dtype.kind == "b" else array.astype(np.str_)
    return index_names(texts.tolist(), allowed, origin=f"{origin} ({name})")


def _to_labels(
    array: npt.NDArray[Any], known: npt.NDArray[Any] | None, contract: Contract, *, origin: str
) -> npt.NDArray[np.int64]:
    array = array.reshape(-1) if array.ndim == 2 and array.shape[1] == 1 else array  # noqa: PLR2004 one column [N, 1]
    if array.ndim != 1 or array.dtype.kind not in "iubU":
        raise ContractViolation(
            f"{origin}: labels are {array.dtype} {list(array.shape)}; expected whole numbers or class names [examples]."
        )
    if array.dtype.kind == "U":
        return index_names(array.tolist(), contract.classes, origin=origin)
    labels = array.astype(np.int64)
    if known is not None and known.dtype.kind == "U" and known.ndim == 1:
        return reorder(labels, known.tolist(), contract.classes)
    return labels


def _to_column(array: npt.NDArray[Any], name: str, count: int, path: Path) -> npt.NDArray[np.str_]:
    if array.shape != (count,) or array.dtype.kind not in "iubU":
        raise ContractViolation(
            f"{path}: the column '{name}' is {array.dtype} {list(array.shape)}; expected texts or whole numbers "
            f"[{count}]."
        )
    return array.astype(np.str_)
