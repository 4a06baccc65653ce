import csv
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from hansa_client.data.source import Dataset
from hansa_client.data.split import Splits
from hansa_client.training.explainer import Explanation, explain_model
from hansa_client.training.flat_model import shared_model
from hansa_client.training.keepsakes import overlay
from hansa_common.errors import TrainingError
from hansa_common.metrics import Importance
from hansa_common.plan import StudyPlan

CPU = torch.device("cpu")
Make = Callable[..., StudyPlan]
FLAT = {"kind": "array", "classes": ["a", "b"], "shape": [3]}
SERIES = {"kind": "array", "classes": ["a", "b"], "shape": [4, 2]}
IMAGES = {"kind": "image", "classes": ["a", "b"], "channels": 1, "height": 18, "width": 18}


def planned(make_plan: Make, data: dict[str, Any], model: dict[str, Any], **explain: Any) -> StudyPlan:
    explain = {"method": "integrated_gradients"} | explain
    return make_plan(replaced={"data": data, "model": model, "simulation": None}, evaluation={"explain": explain})


def examples_like(data: dict[str, Any], count: int, seed: int = 0) -> Dataset:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, count)
    if data["kind"] == "image":
        return Dataset(features=rng.integers(0, 256, (count, 18, 18, 1), dtype=np.uint8), labels=labels)
    return Dataset(features=rng.normal(size=(count, *data["shape"])).astype(np.float32), labels=labels)


def splits(train: Any, test: Any) -> Splits:
    return Splits(train=np.asarray(train), validation=np.asarray(test)[:0], test=np.asarray(test))


def explained(plan: StudyPlan, dataset: Dataset, parts: Splits, parameters: np.ndarray, seed: int = 1) -> Explanation:
    return explain_model(plan, dataset, parts, parameters.astype(np.float32), device=CPU, seed=seed)


LINEAR = np.array([0.5, -1.0, 2.0, -0.5, 1.0, -2.0, 0.1, 0.2])
"""Weights of two classes and three inputs, then biases."""


def test_merged_importance_is_bit_for_bit_the_pooled_one(make_plan: Make) -> None:
    plan, dataset = planned(make_plan, FLAT, {"name": "logistic"}, examples=1000), examples_like(FLAT, 60)
    pooled = explained(plan, dataset, splits(range(10), range(10, 60)), LINEAR).importance
    first = explained(plan, dataset, splits(range(10), range(10, 27)), LINEAR, seed=2).importance
    second = explained(plan, dataset, splits(range(5), range(27, 60)), LINEAR, seed=3).importance
    assert first + second == pooled
    features, labels = dataset.features[10:], dataset.labels[10:]
    hand = np.abs(features * LINEAR[:6].reshape(2, 3)[labels])
    np.testing.assert_allclose(pooled.mean_absolute()[1], hand[labels == 1].mean(axis=0), atol=2e-6)


def test_the_mean_of_the_training_split_is_a_baseline(make_plan: Make) -> None:
    plan = planned(make_plan, FLAT, {"name": "logistic"}, baseline="mean")
    dataset = examples_like(FLAT, 30)
    found = explained(plan, dataset, splits(range(20), range(20, 30)), LINEAR).importance
    distance = dataset.features[20:] - dataset.features[:20].mean(axis=0)
    labels = dataset.labels[20:]
    hand = distance * LINEAR[:6].reshape(2, 3)[labels]
    np.testing.assert_allclose(found.mean()[0], hand[labels == 0].mean(axis=0), atol=2e-6)


@pytest.mark.parametrize("method", ["integrated_gradients", "shapley"])
def test_a_model_with_one_output_explains_both_classes_by_their_log_odds(make_plan: Make, method: str) -> None:
    plan = planned(make_plan, FLAT, {"name": "logistic", "outputs": "sigmoid"}, method=method)
    dataset, weights = examples_like(FLAT, 60), np.array([0.5, -1.0, 2.0, 0.1])
    found = explained(plan, dataset, splits(range(10), range(10, 60)), weights).importance
    features, labels = dataset.features[10:], dataset.labels[10:]
    for label, sign in ((0, -1.0), (1, 1.0)):
        hand = sign * features[labels == label] * weights[:3]
        np.testing.assert_allclose(found.mean()[label], hand.mean(axis=0), atol=2e-6)
        np.testing.assert_allclose(found.mean_absolute()[label], np.abs(hand).mean(axis=0), atol=2e-6)


def test_only_so_many_examples_of_the_named_split_are_explained(make_plan: Make) -> None:
    plan, dataset = planned(make_plan, FLAT, {"name": "logistic"}, examples=7), examples_like(FLAT, 60)
    parts = splits(range(10), range(10, 60))
    found = explained(plan, dataset, parts, LINEAR)
    assert found.importance.num_examples == 7
    assert explained(plan, dataset, parts, LINEAR).importance == found.importance
    assert explained(plan, dataset, parts, LINEAR, seed=9).importance != found.importance
    named = planned(make_plan, FLAT, {"name": "logistic"}, split="validation")
    assert explained(named, dataset, parts, LINEAR).importance == Importance.zero(2, 3)


def test_shapley_draws_by_the_seed_alone(make_plan: Make) -> None:
    plan = planned(make_plan, FLAT, {"name": "mlp", "hidden": [4]}, method="shapley", steps=8)
    dataset, parts = examples_like(FLAT, 30), splits(range(20), range(20, 30))
    weights = np.random.default_rng(3).normal(size=26)
    torch.manual_seed(1)
    first = explained(plan, dataset, parts, weights).importance
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert explained(plan, dataset, parts, weights).importance == first
    assert torch.equal(torch.get_rng_state(), state)


def test_a_model_that_diverged_is_not_explained(make_plan: Make) -> None:
    plan, dataset = planned(make_plan, FLAT, {"name": "logistic"}), examples_like(FLAT, 30)
    with pytest.raises(TrainingError, match="not finite"):
        explained(plan, dataset, splits(range(20), range(20, 30)), np.full(8, np.inf))


def test_rows_of_single_examples_are_kept_for_the_site(make_plan: Make) -> None:
    plan, dataset = planned(make_plan, FLAT, {"name": "logistic"}, kept_examples=3), examples_like(FLAT, 30)
    kept = explained(plan, dataset, splits(range(20), range(20, 30)), LINEAR).kept
    assert set(kept) == {"examples.csv"}
    rows = list(csv.DictReader(io.StringIO(kept["examples.csv"].decode())))
    assert len(rows) == 3
    assert list(rows[0]) == ["example", "truth", "predicted", "probability_of_class", *(f"feature {n}" for n in "123")]
    values = {tuple(round(float(row[f"feature {n}"]), 4) for n in "123") for row in rows}
    hand = dataset.features * LINEAR[:6].reshape(2, 3)[dataset.labels]
    assert values <= {tuple(round(float(value), 4) for value in row) for row in hand[20:]}
    none = planned(make_plan, FLAT, {"name": "logistic"}, kept_examples=0)
    assert explained(none, dataset, splits(range(20), range(20, 30)), LINEAR).kept == {}


def test_series_are_explained_step_by_step(make_plan: Make) -> None:
    plan, dataset = planned(make_plan, SERIES, {"name": "logistic"}, kept_examples=2), examples_like(SERIES, 30)
    weights = np.zeros(18)
    weights[4:6] = 1.0  # class a looks at the third step only
    found = explained(plan, dataset, splits(range(20), range(20, 30)), weights)
    importance = found.importance.mean_absolute()[0]
    assert (importance[:2] > 0).all()  # both features
    assert (importance[[2, 3, 5]] == 0).all()
    assert importance[4] > 0
    assert set(found.kept) == {"examples.csv", "001.csv", "002.csv"}
    assert found.kept["001.csv"].decode().splitlines()[0] == "step,feature 1,feature 2"


@pytest.mark.parametrize("method", ["grad_cam", "integrated_gradients"])
def test_pictures_are_kept_beside_their_heat_maps(make_plan: Make, method: str) -> None:
    model = {"name": "cnn", "filters": [2, 2, 2], "dense": 4}
    plan = planned(make_plan, IMAGES, model, method=method, kept_examples=2, steps=8)
    dataset, parts = examples_like(IMAGES, 30), splits(range(20), range(20, 30))
    weights = np.random.default_rng(0).normal(size=118) * 0.5
    found = explained(plan, dataset, parts, weights)
    assert set(found.kept) == {
        "examples.csv",
        "001-image.png",
        "001-overlay.png",
        "002-image.png",
        "002-overlay.png",
    }
    picture = np.asarray(Image.open(io.BytesIO(found.kept["001-image.png"])))
    assert picture.shape == (108, 108, 3)  # 18 pixels six times
    assert (picture[::6, ::6, 0] == dataset.features[parts.test][:, :, :, 0]).all(axis=(1, 2)).any()
    assert (found.importance.lowering.sum() == 0) == (method == "grad_cam")


def test_an_overlay_is_red_for_the_class_and_blue_against_it() -> None:
    grey = np.full((1, 3, 3), 0.5)
    mixed = overlay(grey, np.array([[2.0, 0.0, -2.0]]))
    assert mixed[0, 0, 0] > mixed[0, 0, 2] + 0.4
    assert mixed[0, 1].tolist() == [0.5, 0.5, 0.5]
    assert mixed[0, 2, 2] > mixed[0, 2, 0] + 0.4
    assert (overlay(grey, np.zeros((1, 3))) == 0.5).all()


def test_a_predicted_number_is_explained_step_by_step_through_a_recurrent_model(make_plan: Make) -> None:
    data = {"kind": "array", "shape": [6, 2], "target": {"kind": "number", "scale": 10.0}}
    plan = planned(make_plan, data, {"name": "lstm", "hidden": 4}, kept_examples=1, steps=64)
    rng = np.random.default_rng(0)
    features = rng.normal(size=(30, 6, 2)).astype(np.float32)
    dataset = Dataset(features=features, labels=np.zeros(30, np.int64), targets=np.full(30, 70.0))
    parts = splits(range(20), range(20, 30))
    size = shared_model(plan, CPU).spec.size
    found = explained(plan, dataset, parts, rng.normal(size=size) * 0.5)
    importance = found.importance
    assert importance.examples.tolist() == [10]
    assert (importance.raising + importance.lowering > 0).all()
    by_feature, by_step = importance.mean()[0][:2].sum(), importance.mean()[0][2:].sum()
    assert by_feature == pytest.approx(by_step, abs=1e-4)  # one sum, two ways
    (row,) = csv.DictReader(io.StringIO(found.kept["examples.csv"].decode()))
    assert row["truth"] == "70"
    assert abs(float(row["predicted"])) < 100.0
