from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hansa_client.data import ADAPTERS, Dataset, Source, image_folder
from hansa_common.contract import ArrayContract, ImageContract
from hansa_common.errors import ContractViolation, DataUnavailable

RED = (200, 10, 30)


def contract(channels: int = 3, height: int = 4, width: int = 6) -> ImageContract:
    return ImageContract(
        kind="image", channels=channels, height=height, width=width, classes=("cat", "dog"), minimum_examples=1
    )


def write(path: Path, *, mode: str = "RGB", size: tuple[int, int] = (6, 4), colour: Any = RED) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path)


def read(folder: Path, asked: ImageContract | None = None, **options: Any) -> Dataset:
    return ADAPTERS["image_folder"](Source(path=folder, options=options), asked or contract())


def test_classes_are_folders_and_order_is_by_name(tmp_path: Path) -> None:
    write(tmp_path / "dog" / "a.PNG", colour=(1, 2, 3))
    write(tmp_path / "cat" / "b.png", colour=(9, 9, 9))
    write(tmp_path / "cat" / "a.png")
    (tmp_path / "cat" / "notes.txt").write_text("ignored")
    (tmp_path / "cat" / "._a.png").write_text("ignored")
    (tmp_path / ".cache").mkdir()
    dataset = read(tmp_path)
    assert dataset.labels.tolist() == [0, 0, 1]
    assert dataset.features.shape == (3, 4, 6, 3)
    assert dataset.features[:, 0, 0].tolist() == [list(RED), [9, 9, 9], [1, 2, 3]]


def test_height_and_width_are_not_swapped(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    (tmp_path / "cat").mkdir()
    Image.fromarray(pixels).save(tmp_path / "cat" / "a.png")
    assert np.array_equal(read(tmp_path).features[0], pixels)


def test_jpeg_and_grey(tmp_path: Path) -> None:
    write(tmp_path / "cat" / "a.jpg", mode="L", colour=77)
    assert np.ptp(read(tmp_path, contract(1)).features) == 0
    assert read(tmp_path).features[0, 0, 0].tolist() == [77, 77, 77]


def test_sites_are_folders_at_the_top(tmp_path: Path) -> None:
    for site, name in [("north", "cat"), ("north", "dog"), ("south", "dog")]:
        write(tmp_path / site / name / "a.png")
    dataset = read(tmp_path, columns="site")
    assert dataset.columns["site"].tolist() == ["north", "north", "south"]
    assert dataset.labels.tolist() == [0, 1, 1]


def test_persons_are_folders_within_the_classes(tmp_path: Path) -> None:
    for name in ("cat/p1/a.png", "dog/p1/a.png", "cat/p2/a.png"):
        write(tmp_path / name)
    dataset = read(tmp_path, columns="person")
    assert dataset.labels.tolist() == [0, 0, 1]
    assert dataset.columns["person"].tolist() == ["p1", "p2", "p1"]


def test_other_sizes_are_refused_by_name_or_resized(tmp_path: Path) -> None:
    write(tmp_path / "cat" / "good.png")
    for number in range(7):
        write(tmp_path / "dog" / f"bad{number}.png", size=(5, 4))
    with pytest.raises(ContractViolation, match=r"7 of 8 images") as caught:
        read(tmp_path)
    assert f"{tmp_path / 'dog' / 'bad0.png'}: 4 x 5" in caught.value.message
    assert caught.value.message.endswith("and 2 more")
    assert read(tmp_path, resize=True).features[7, 0, 0].tolist() == list(RED)


def test_folder_of_another_class_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "dogs" / "a.png")
    with pytest.raises(ContractViolation, match="class 'dogs'") as caught:
        read(tmp_path)
    assert "Did you mean 'dog'" in caught.value.advice


def test_deep_pixels_and_huge_images_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "cat" / "a.png", mode="I;16", colour=40_000)
    with pytest.raises(ContractViolation, match="deeper than 8 bits"):
        read(tmp_path)
    write(tmp_path / "cat" / "a.png", size=(60, 40))
    monkeypatch.setattr(image_folder, "_MAX_PIXELS", 2_000)
    with pytest.raises(ContractViolation, match="more than 2,000 pixels"):
        read(tmp_path, resize=True)


@pytest.mark.parametrize("keep", [0, 20, 45])
def test_broken_files_are_named(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "cat" / "a.png"
    write(path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataUnavailable, match=r"a\.png cannot be read"):
        read(tmp_path)


def test_other_contracts_and_empty_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataUnavailable, match=r"layout <class>/<image>"):
        read(tmp_path)
    with pytest.raises(ContractViolation, match="1, 3 or 4 channels"):
        read(tmp_path, contract(2))
    with pytest.raises(ContractViolation, match="1, 3 or 4 channels"):
        ADAPTERS["image_folder"](Source(path=tmp_path), ArrayContract(kind="array", shape=(4,), classes=("cat", "dog")))
