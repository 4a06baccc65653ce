import numpy as np
import pytest
import torch
from sklearn.preprocessing import StandardScaler
from sklearn.utils.class_weight import compute_class_weight

from hansa_client.data.source import Dataset
from hansa_client.training.examples import Loader, Standardisation, class_weights, model_input
from hansa_common.contract import ArrayContract, Column, ImageContract, TableContract

CPU = torch.device("cpu")


def table(standardise: str) -> TableContract:
    return TableContract.model_validate(
        {
            "kind": "table",
            "classes": ("a", "b"),
            "label": "y",
            "columns": tuple(Column(name=f"x{index}") for index in range(3)),
            "standardise": standardise,
        }
    )


@pytest.fixture
def rows() -> Dataset:
    rng = np.random.default_rng(4)
    features = (rng.normal(size=(50, 3)) * [1, 1000, 0.01] + [5, -300, 0]).astype(np.float32)
    return Dataset(features=features, labels=rng.integers(0, 2, 50))


def test_tables_are_standardised_by_the_training_split_alone(rows: Dataset) -> None:
    train, test = np.arange(30), np.arange(30, 50)
    loader = Loader(table("site"), rows, train, CPU)
    scaler = StandardScaler().fit(rows.features[train].astype(np.float64))
    for indices in (train, test):
        expected = scaler.transform(rows.features[indices].astype(np.float64))
        np.testing.assert_allclose(loader.load(indices).features.numpy(), expected, rtol=1e-5, atol=1e-6)


def test_arrays_are_standardised_along_their_last_axis() -> None:
    features = (np.random.default_rng(1).normal(size=(50, 4, 2)) * [1, 1000] + [5, -300]).astype(np.float32)
    contract = ArrayContract(kind="array", shape=(4, 2), classes=("a", "b"), standardise="site")
    loader = Loader(contract, Dataset(features=features, labels=np.zeros(50, np.int64)), np.arange(30), CPU)
    loaded = loader.load(np.arange(30, 50)).features.numpy()
    scaler = StandardScaler().fit(features[:30].reshape(-1, 2).astype(np.float64))
    expected = scaler.transform(features[30:].reshape(-1, 2).astype(np.float64)).reshape(20, 4, 2)
    np.testing.assert_allclose(loaded, expected, rtol=1e-5, atol=1e-6)


def test_tables_are_left_alone_unless_the_contract_says_so(rows: Dataset) -> None:
    indices = np.array([7, 3, 7])
    loaded = Loader(table("none"), rows, np.arange(30), CPU).load(indices)
    assert np.array_equal(loaded.features.numpy(), rows.features[indices])
    assert np.array_equal(loaded.labels.numpy(), rows.labels[indices])


def test_a_constant_column_is_only_shifted() -> None:
    features = np.full((7, 1), 0.1, dtype=np.float32)
    standardisation = Standardisation.of(features)
    assert standardisation.deviation.tolist() == [1.0]
    assert np.abs(standardisation.apply(features + 1) - 1.0).max() < 1e-6


def test_images_reach_the_model_scaled_and_channels_last() -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, 5, 6, 3), dtype=np.uint8)
    contract = ImageContract(kind="image", classes=("a", "b"), channels=3, height=5, width=6)
    loaded = Loader(contract, Dataset(features=images, labels=np.zeros(4, np.int64)), np.arange(4), CPU)
    examples = loaded.load(np.arange(4))
    assert examples.features.dtype == torch.uint8
    inputs = model_input(examples.features)
    assert inputs.is_contiguous(memory_format=torch.channels_last)
    expected = images.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)
    np.testing.assert_array_equal(inputs.numpy(), expected)


def test_read_only_data_are_copied_without_a_warning(rows: Dataset) -> None:
    rows.features.flags.writeable = False
    rows.labels.flags.writeable = False
    assert len(Loader(table("none"), rows, np.arange(3), CPU).load(np.arange(50))) == 50


def test_batches_keep_order_and_end_with_a_smaller_one(rows: Dataset) -> None:
    examples = Loader(table("none"), rows, np.arange(3), CPU).load(np.arange(10))
    sizes = [len(labels) for _features, labels in examples.batches(4)]
    assert sizes == [4, 4, 2]
    assert torch.equal(torch.cat([features for features, _labels in examples.batches(4)]), examples.features)


def test_balanced_weights_are_those_of_scikit_learn() -> None:
    labels = np.array([0] * 5 + [1] * 20 + [2] * 3)
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    found = class_weights("balanced", labels, 3)
    assert found is not None
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_balanced_weights_count_absent_classes_among_k() -> None:
    found = class_weights("balanced", np.array([0, 0, 2, 2, 2, 2]), 3)
    assert found is not None
    np.testing.assert_allclose(found, [6 / (3 * 2), 0.0, 6 / (3 * 4)])


def test_weights_of_the_plan_are_taken_as_they_are() -> None:
    assert class_weights("none", np.array([0]), 2) is None
    found = class_weights((1.0, 2.5), np.array([0]), 2)
    assert found is not None
    assert found.dtype == np.float32
    assert found.tolist() == [1.0, 2.5]
