import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hansa_client.data import ADAPTERS, Dataset, Source, npz
from hansa_common.contract import ArrayContract, Column, ImageContract, TableContract
from hansa_common.errors import ContractViolation, DataUnavailable

IMAGES = ImageContract(kind="image", channels=3, height=4, width=5, classes=("a", "b"), minimum_examples=1)
ARRAYS = ArrayContract(kind="array", shape=(3,), classes=("a", "b"), minimum_examples=1, minimum=-1.0)
X = np.arange(2 * 60, dtype=np.uint8).reshape(2, 4, 5, 3)


def read(folder: Path, contract: Any, arrays: dict[str, Any], **options: Any) -> Dataset:
    path = folder / "data.npz"
    np.savez_compressed(path, **arrays)
    return ADAPTERS["npz"](Source(path=path, options=options), contract)


def test_images_labels_and_columns(tmp_path: Path) -> None:
    arrays = {"pixels": X, "target": np.array([1, 0], dtype=np.int16), "ward": np.array(["N", "S"])}
    dataset = read(tmp_path, IMAGES, arrays, features="pixels", labels="target", columns=("ward",))
    assert np.array_equal(dataset.features, X)
    assert dataset.features.dtype == np.uint8
    assert dataset.labels.tolist() == [1, 0]
    assert dataset.columns["ward"].tolist() == ["N", "S"]


def test_usual_names_are_found(tmp_path: Path) -> None:
    assert len(read(tmp_path, IMAGES, {"images": X, "labels": np.array([[1], [0]])})) == 2


def test_grey_images_get_their_channel(tmp_path: Path) -> None:
    contract = IMAGES.model_copy(update={"channels": 1})
    assert read(tmp_path, contract, {"x": X[..., 0], "y": [0, 1]}).features.shape == (2, 4, 5, 1)


def test_arrays_become_float32(tmp_path: Path) -> None:
    dataset = read(tmp_path, ARRAYS, {"x": np.array([[1, 2, 3], [4, 5, 6]]), "y": [0, 1]})
    assert dataset.features.dtype == np.float32
    assert dataset.features.tolist() == [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]


def test_labels_are_put_in_the_contracts_order(tmp_path: Path) -> None:
    assert read(tmp_path, IMAGES, {"x": X, "y": np.array(["b", "a"])}).labels.tolist() == [1, 0]
    assert read(tmp_path, IMAGES, {"x": X, "y": [0, 1], "classes": np.array(["b", "a"])}).labels.tolist() == [1, 0]
    assert read(tmp_path, IMAGES, {"x": X, "y": [0, 1], "classes": np.array(["c", "a"])}).labels.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("contract", "arrays", "message"),
    [
        (IMAGES, {"x": X / 255, "y": [0, 1]}, "images are uint8"),
        (IMAGES, {"x": X.transpose(0, 3, 1, 2), "y": [0, 1]}, r"shape \[2, 3, 4, 5\]; expected \[2, 4, 5, 3\]"),
        (IMAGES, {"x": X, "y": [0, 1, 1]}, r"expected \[3, 4, 5, 3\] for 3 labels"),
        (IMAGES, {"x": X, "y": [0, 2]}, "outside 0 to 1"),
        (IMAGES, {"x": X, "y": [0.0, 1.0]}, "labels are float64"),
        (IMAGES, {"x": X, "y": np.array(["a", "z"])}, "class 'z'"),
        (ARRAYS, {"x": [[0.0, 0.0, np.nan], [0.0, 0.0, 0.0]], "y": [0, 1]}, r"NaN or infinity: example\(s\) 1"),
        (ARRAYS, {"x": [[0.0, 0.0, 1e300], [0.0, 0.0, 0.0]], "y": [0, 1]}, "NaN or infinity"),
        (ARRAYS, {"x": [[0.0, 0.0, 0.0], [0.0, 0.0, -2.0]], "y": [0, 1]}, r"outside at least -1.*example\(s\) 2"),
        (ARRAYS, {"x": np.zeros((2, 3), dtype=complex), "y": [0, 1]}, "real numbers"),
        (
            TableContract(kind="table", label="y", classes=("a", "b"), columns=(Column(name="x"),)),
            {"x": X, "y": [0, 1]},
            "'table'",
        ),
    ],
)
def test_what_breaks_the_contract_is_refused(
    tmp_path: Path, contract: Any, arrays: dict[str, Any], message: str
) -> None:
    with pytest.raises(ContractViolation, match=message):
        read(tmp_path, contract, arrays)


def test_pickled_objects_are_never_loaded(tmp_path: Path) -> None:
    marker = tmp_path / "executed"

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (marker.touch, ())

    with pytest.raises(DataUnavailable, match="Python objects"):
        read(tmp_path, IMAGES, {"x": np.array([Evil()], dtype=object), "y": [0]})
    assert not marker.exists()


def test_header_that_claims_more_than_is_there_takes_no_memory(tmp_path: Path) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"shape": (1 << 38,), "fortran_order": False, "descr": "|u1"})
    path = tmp_path / "data.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", header.getvalue() + b"123")
        archive.writestr("y.npy", header.getvalue())
    with pytest.raises(DataUnavailable, match="claims 274,877,906,944 bytes"):
        ADAPTERS["npz"](Source(path=path), IMAGES)


def test_arrays_above_the_limit_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(npz, "MAX_ARRAY", 200)
    with pytest.raises(DataUnavailable, match="at most 200 are read"):
        read(tmp_path, IMAGES, {"x": X, "y": [0, 1]})


def test_absent_arrays_and_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataUnavailable, match="has no array 'pixel'") as caught:
        read(tmp_path, IMAGES, {"pixels": X, "y": [0, 1]}, features="pixel")
    assert "Did you mean 'pixels'" in caught.value.advice
    with pytest.raises(DataUnavailable, match="none of the arrays"):
        read(tmp_path, IMAGES, {"pixels": X, "y": [0, 1]})
    path = tmp_path / "text.npz"
    path.write_text("no archive")
    with pytest.raises(DataUnavailable, match="no NPZ archive"):
        ADAPTERS["npz"](Source(path=path), IMAGES)


@pytest.mark.parametrize("position", [60, 200])
def test_damaged_archive_is_refused(tmp_path: Path, position: int) -> None:
    read(tmp_path, IMAGES, {"x": X, "y": [0, 1]})
    path = tmp_path / "data.npz"
    content = bytearray(path.read_bytes())
    content[position] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(DataUnavailable):
        ADAPTERS["npz"](Source(path=path), IMAGES)


@pytest.mark.needs_data
def test_real_blood_cells_by_microscope_image(real_data: Path) -> None:
    path = real_data / "bccd_bloodcells" / "bccd_mini32.npz"
    with np.load(path) as arrays:
        classes = tuple(arrays["classes"].tolist())
    contract = ImageContract(kind="image", channels=3, height=32, width=32, classes=tuple(reversed(classes)))
    dataset = ADAPTERS["npz"](Source(path=path, options={"columns": ("image_id",)}), contract)
    with np.load(path) as arrays:
        assert np.array_equal(np.asarray(contract.classes)[dataset.labels], arrays["classes"][arrays["y"]])
    assert len(dataset.columns["image_id"]) == 1433


def test_a_column_that_the_study_needs_is_returned_without_an_option(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    np.savez(path, x=X, y=[0, 1], patient=["p1", "p2"])
    dataset = ADAPTERS["npz"](Source(path=path, columns=("patient", "absent")), IMAGES)
    assert {name: values.tolist() for name, values in dataset.columns.items()} == {"patient": ["p1", "p2"]}
