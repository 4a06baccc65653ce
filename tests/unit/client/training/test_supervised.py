import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.metrics import accuracy_score, confusion_matrix, log_loss
from torch import nn
from torch.nn import functional

from hansa_client.data.source import Dataset
from hansa_client.data.split import Splits
from hansa_client.training import SupervisedTraining
from hansa_common.errors import TrainingError, TrainingOutOfMemory
from hansa_common.metrics import ClassificationCounts, of_classes
from hansa_common.models import ARCHITECTURES, Architecture
from hansa_common.models.cnn import CNNOptions, build
from hansa_common.parameters import Vector
from hansa_common.plan import StudyPlan, parse_plan
from hansa_common.settings import Strict

CPU = torch.device("cpu")
CNN = {"name": "cnn", "filters": [4, 6, 5], "dense": 7}
IMAGE = {"kind": "image", "classes": ["a", "b", "c"], "channels": 3, "height": 18, "width": 20}
ARRAY = {"kind": "array", "classes": ["a", "b", "c"], "shape": [5]}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make_plan(
    model: dict[str, Any] | None = None, data: dict[str, Any] | None = None, *, rounds: int = 4, **training: Any
) -> StudyPlan:
    if not {"epochs", "steps"} & training.keys():
        training["epochs"] = 1
    return parse_plan(
        {
            "name": "test",
            "purpose": "A test.",
            "model": model or {"name": "logistic"},
            "data": data or ARRAY,
            "training": training,
            "rounds": {"count": rounds},
        }
    )


def make_dataset(count: int = 60, *, seed: int = 0, images: bool = False) -> Dataset:
    rng = np.random.default_rng(seed)
    labels = rng.choice(3, size=count, p=[0.5, 0.3, 0.2])
    if images:
        return Dataset(features=rng.integers(0, 256, (count, 18, 20, 3), dtype=np.uint8), labels=labels)
    centres = np.random.default_rng(99).normal(size=(3, 5))
    features = (centres[labels] + rng.normal(size=(count, 5))).astype(np.float32)
    return Dataset(features=features, labels=labels)


def make_site(plan: StudyPlan, dataset: Dataset | None = None, *, train: int | None = None) -> SupervisedTraining:
    data = dataset or make_dataset(images=plan.data.kind == "image")
    end = train or len(data) * 2 // 3
    half = (len(data) - end) // 2
    splits = Splits(train=np.arange(end), validation=np.arange(end, end + half), test=np.arange(end + half, len(data)))
    return SupervisedTraining(plan=plan, dataset=data, splits=splits, device=CPU)


def plain_training(
    module: nn.Module,
    dataset: Dataset,
    optimizer: torch.optim.Optimizer,
    *,
    examples: int,
    batch: int,
    seed: int,
    epochs: int,
    clip: float | None = None,
    weights: list[float] | None = None,
    rate: Callable[[int], float] | None = None,
) -> float:
    """The usual loop: images as contiguous NCHW float32, no flat vector; returns the mean loss of the examples."""
    features = torch.from_numpy(dataset.features[:examples].astype(np.float32))
    if dataset.features.dtype == np.uint8:
        features = (features / 255).permute(0, 3, 1, 2).contiguous()
    labels = torch.from_numpy(dataset.labels[:examples])
    generator = torch.Generator().manual_seed(seed)
    criterion = nn.CrossEntropyLoss(weight=None if weights is None else torch.tensor(weights))
    losses, step = 0.0, 0
    for _ in range(epochs):
        order = torch.randperm(examples, generator=generator).tolist()
        for start in range(0, examples, batch):
            chosen = order[start : start + batch]
            if rate is not None:
                for group in optimizer.param_groups:
                    group["lr"] = rate(step)
            optimizer.zero_grad()
            loss = criterion(module(features[chosen]), labels[chosen])
            loss.backward()
            if clip is not None:
                norm = math.sqrt(sum(float((p.grad**2).sum()) for p in module.parameters() if p.grad is not None))
                for parameter in module.parameters():
                    assert parameter.grad is not None
                    parameter.grad *= min(1.0, clip / norm)
            optimizer.step()
            losses, step = losses + loss.item() * len(chosen), step + 1
    return losses / (examples * epochs)


def flat(module: nn.Module) -> Vector:
    return np.concatenate([p.detach().numpy().ravel() for p in module.parameters()])


OPTIMIZERS: dict[str, tuple[dict[str, Any], Callable[[Any], torch.optim.Optimizer]]] = {
    "sgd": ({"optimizer": "sgd", "learning_rate": 0.1}, lambda p: torch.optim.SGD(p, lr=0.1, fused=False)),
    "momentum and decay": (
        {"optimizer": "sgd", "learning_rate": 0.05, "momentum": 0.9, "weight_decay": 0.01},
        lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=0.01, fused=False),
    ),
    "adam": (
        {"optimizer": "adam", "learning_rate": 0.01, "weight_decay": 0.1},
        lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.1, foreach=False),
    ),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_equals_the_plain_loop(name: str) -> None:
    keys, make_optimizer = OPTIMIZERS[name]
    plan, data = make_plan(CNN, IMAGE, batch_size=16, epochs=2, **keys), make_dataset(images=True)
    site = make_site(plan, data)  # 40 examples: the last batch of an epoch has 8
    start = site.initial(3)
    torch.manual_seed(3)
    module = build(CNNOptions(filters=(4, 6, 5), dense=7), plan.data)
    np.testing.assert_array_equal(flat(module), start)
    loss = plain_training(module, data, make_optimizer(module.parameters()), examples=40, batch=16, seed=11, epochs=2)
    trained = site.train(start, round_number=1, seed=11)
    np.testing.assert_allclose(start + trained.delta, flat(module), atol=1e-5, rtol=0)
    assert np.abs(trained.delta).max() > 1e-3
    assert trained.loss == pytest.approx(loss, rel=1e-5)
    assert (trained.num_examples, trained.steps) == (40, 6)
    assert trained.delta.dtype == np.float32


def test_clipping_class_weights_and_schedule_equal_the_plain_loop() -> None:
    plan = make_plan(
        epochs=3,
        rounds=5,
        batch_size=8,
        optimizer="sgd",
        learning_rate=0.5,
        gradient_clip=0.2,
        class_weights=[1.0, 2.0, 5.0],
        schedule="linear",
    )
    data = make_dataset()
    module = nn.Linear(5, 3)
    nn.init.zeros_(module.weight)
    nn.init.zeros_(module.bias)
    plain_training(
        module,
        data,
        torch.optim.SGD(module.parameters(), lr=0.5),
        examples=40,
        batch=8,
        seed=2,
        epochs=3,
        clip=0.2,
        weights=[1.0, 2.0, 5.0],
        rate=lambda step: 0.5 * (1 - (1 + step / 15) / 5),  # the second of five rounds
    )
    delta = make_site(plan, data).train(np.zeros(18, np.float32), round_number=2, seed=2).delta
    np.testing.assert_allclose(delta, flat(module), atol=1e-5, rtol=0)


def test_balanced_weights_come_from_the_training_split() -> None:
    data = make_dataset()
    counts = np.bincount(data.labels[:40], minlength=3)
    weights = tuple(float(40 / (3 * count)) for count in counts)
    start = np.zeros(18, np.float32)
    balanced = make_site(make_plan(class_weights="balanced"), data).train(start, round_number=1, seed=1)
    given = make_site(make_plan(class_weights=weights), data).train(start, round_number=1, seed=1)
    unweighted = make_site(make_plan(), data).train(start, round_number=1, seed=1)
    np.testing.assert_allclose(balanced.delta, given.delta, atol=1e-7)
    assert not np.allclose(balanced.delta, unweighted.delta)


@pytest.mark.parametrize(("steps", "batch"), [(1, 16), (3, 16), (7, 16), (5, 100)])
def test_steps_go_on_over_epochs_until_they_are_done(steps: int, batch: int) -> None:
    data, start = make_dataset(), np.zeros(18, np.float32)
    trained = make_site(make_plan(steps=steps, batch_size=batch), data).train(start, round_number=1, seed=4)
    assert trained.steps == steps
    an_epoch = math.ceil(40 / batch)
    if steps % an_epoch == 0:
        plan = make_plan(epochs=steps // an_epoch, batch_size=batch)
        by_epochs = make_site(plan, data).train(start, round_number=1, seed=4)
        np.testing.assert_array_equal(trained.delta, by_epochs.delta)
        assert trained.loss == by_epochs.loss


def test_one_batch_may_hold_all_examples() -> None:
    trained = make_site(make_plan(batch_size=1000)).train(np.zeros(18, np.float32), round_number=1, seed=1)
    assert trained.steps == 1
    assert trained.loss == pytest.approx(math.log(3), rel=1e-6)


AUGMENTED = {"flip": True, "crop": 2, "noise": 0.1, "mixup": 0.3}


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_one_seed_gives_one_result_bit_for_bit(precision: str) -> None:
    plan = make_plan(CNN, IMAGE, batch_size=16, epochs=2, precision=precision, augmentation=AUGMENTED)
    site = make_site(plan)
    start = site.initial(1)
    first = site.train(start, round_number=2, seed=5)
    again = site.train(start, round_number=2, seed=5)
    other_instance = make_site(plan).train(start, round_number=2, seed=5)
    np.testing.assert_array_equal(first.delta, again.delta)
    np.testing.assert_array_equal(first.delta, other_instance.delta)
    assert first.loss == again.loss == other_instance.loss


def test_the_order_of_batches_depends_on_the_seed() -> None:
    site = make_site(make_plan(batch_size=8))
    start = np.zeros(18, np.float32)
    first, other = (site.train(start, round_number=1, seed=seed) for seed in (1, 2))
    assert not np.array_equal(first.delta, other.delta)


class NormalisedOptions(Strict):
    pass


def _build_normalised(options: NormalisedOptions, contract: Any) -> nn.Module:
    del options, contract
    return nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6, momentum=None), nn.Dropout(0.3), nn.ReLU(), nn.Linear(6, 3))


@pytest.fixture
def normalised(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    architecture = Architecture(options=NormalisedOptions, accepts=frozenset({"array"}), build=_build_normalised)
    monkeypatch.setitem(ARCHITECTURES._entries, "normalised", architecture)
    return {"name": "normalised"}


def test_sites_that_share_a_model_do_not_disturb_each_other(normalised: dict[str, Any]) -> None:
    plan = make_plan(normalised, batch_size=10, epochs=2, optimizer="sgd", learning_rate=0.1, momentum=0.9)
    site_a, site_b = make_site(plan, make_dataset(seed=1)), make_site(plan, make_dataset(seed=2))
    assert site_a._model is site_b._model
    start = site_a.initial(0)
    first = site_a.train(start, round_number=1, seed=7)
    site_b.evaluate(site_b.initial(9), "test")
    site_b.train(start + first.delta, round_number=1, seed=8)
    torch.rand(17)
    again = site_a.train(start, round_number=1, seed=7)
    np.testing.assert_array_equal(first.delta, again.delta)
    assert first.loss == again.loss


def test_running_statistics_are_part_of_the_update(normalised: dict[str, Any]) -> None:
    data = make_dataset()
    site = make_site(make_plan(normalised, batch_size=40, optimizer="sgd", learning_rate=1e-6), data)
    names = [tensor.name for tensor in site.spec.tensors]
    assert names[-2:] == ["1.running_mean", "1.running_var"]
    start = site.initial(0)
    parts = dict(site.spec.split(start))
    hidden = data.features[:40] @ parts["0.weight"].T + parts["0.bias"]
    moved = dict(site.spec.split(start + site.train(start, round_number=1, seed=1).delta))
    np.testing.assert_allclose(moved["1.running_mean"], hidden.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(moved["1.running_var"], hidden.var(axis=0, ddof=1), atol=1e-5)


def test_the_incoming_vector_is_not_changed() -> None:
    site = make_site(make_plan())
    start = np.zeros(18, np.float32)
    start.flags.writeable = False
    trained = site.train(start, round_number=1, seed=1)
    kept = trained.delta.copy()
    site.train(start, round_number=1, seed=2)
    np.testing.assert_array_equal(trained.delta, kept)


def test_evaluation_agrees_with_scikit_learn() -> None:
    data = make_dataset(3000)
    site = make_site(make_plan(class_weights=[1.0, 5.0, 9.0]), data, train=1000)
    parameters = np.random.default_rng(0).normal(size=18).astype(np.float32)
    weight, bias = parameters[:15].reshape(3, 5).astype(np.float64), parameters[15:].astype(np.float64)
    for split, part in {"validation": slice(1000, 2000), "test": slice(2000, 3000)}.items():
        logits = data.features[part].astype(np.float64) @ weight.T + bias
        probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        counts = of_classes(site.evaluate(parameters, split))  # type: ignore[arg-type]
        predicted = probabilities.argmax(axis=1)
        assert np.array_equal(counts.confusion, confusion_matrix(data.labels[part], predicted))
        assert np.trace(counts.confusion) / 1000 == accuracy_score(data.labels[part], predicted)
        assert counts.loss_sum / 1000 == pytest.approx(log_loss(data.labels[part], probabilities), rel=1e-5)
        assert counts.has_histograms == (split == "test")


def test_an_empty_split_counts_nothing() -> None:
    site = make_site(make_plan(), make_dataset(12), train=12)
    for split, histograms in (("validation", False), ("test", True)):
        counts = site.evaluate(np.zeros(18, np.float32), split)  # type: ignore[arg-type]
        assert counts == ClassificationCounts.zero(3, histograms=histograms)


def test_dropout_is_off_in_evaluation(normalised: dict[str, Any]) -> None:
    site = make_site(make_plan(normalised))
    start = site.initial(0)
    first = site.evaluate(start, "test")
    site.train(start, round_number=1, seed=1)
    assert site.evaluate(start, "test") == first


def test_a_loss_that_is_not_finite_is_divergence() -> None:
    site = make_site(make_plan(optimizer="sgd", learning_rate=1e38, epochs=3))
    with pytest.raises(TrainingError, match="diverged in round 2") as caught:
        site.train(np.ones(18, np.float32), round_number=2, seed=1)
    assert "learning_rate" in caught.value.advice
    assert "gradient_clip" in caught.value.advice
    assert caught.value.code == "training"


def test_parameters_that_end_not_finite_are_divergence_too() -> None:
    site = make_site(make_plan(optimizer="sgd", learning_rate=1e38, steps=1, weight_decay=100.0))
    with pytest.raises(TrainingError, match="a parameter is not finite after 1 steps"):
        site.train(np.full(18, 10.0, np.float32), round_number=1, seed=1)


def test_a_model_whose_outputs_overflow_cannot_be_evaluated() -> None:
    parameters = np.where(np.arange(18) % 2, 3e38, -3e38).astype(np.float32)
    with pytest.raises(TrainingError, match="not finite"):
        make_site(make_plan()).evaluate(parameters, "test")


def test_running_out_of_memory_names_the_batch_size(monkeypatch: pytest.MonkeyPatch) -> None:
    site = make_site(make_plan(batch_size=32))

    def exhausted(_inputs: torch.Tensor) -> torch.Tensor:
        return torch.empty(1 << 60, dtype=torch.uint8)

    monkeypatch.setattr(site._model.module, "forward", exhausted)
    with pytest.raises(TrainingOutOfMemory, match="batches of 32") as caught:
        site.train(np.zeros(18, np.float32), round_number=1, seed=1)
    assert "batch_size" in caught.value.advice
    with pytest.raises(TrainingOutOfMemory, match="evaluation"):
        site.evaluate(np.zeros(18, np.float32), "test")


def test_an_empty_training_split_is_refused() -> None:
    empty = np.arange(0)
    splits = Splits(train=empty, validation=np.arange(5), test=np.arange(5, 12))
    with pytest.raises(TrainingError, match="empty"):
        SupervisedTraining(plan=make_plan(), dataset=make_dataset(12), splits=splits, device=CPU)


def test_mixup_trains_on_the_mixed_loss() -> None:
    data = make_dataset()
    site = make_site(make_plan(batch_size=40, augmentation={"mixup": 1.0}), data)
    parameters = np.random.default_rng(1).normal(size=18).astype(np.float32)
    trained = site.train(parameters, round_number=1, seed=6)
    draw = torch.Generator().manual_seed(6)
    order = torch.randperm(40, generator=draw).numpy()
    partner = order[torch.randperm(40, generator=draw).numpy()]
    share = np.random.default_rng(int(torch.randint(2**62, (), generator=draw))).beta(1.0, 1.0)
    features = share * data.features[order] + (1 - share) * data.features[partner]
    logits = torch.from_numpy(features @ parameters[:15].reshape(3, 5).T + parameters[15:])
    targets = np.eye(3)[data.labels]
    soft = torch.from_numpy(share * targets[order] + (1 - share) * targets[partner])
    assert trained.loss == pytest.approx(functional.cross_entropy(logits, soft).item(), rel=1e-5)


@pytest.mark.parametrize(
    ("model", "data", "keys"),
    [
        ({"name": "logistic"}, {"kind": "array", "shape": [64]}, {"learning_rate": 0.02}),
        (
            {"name": "cnn", "filters": [8, 16, 16], "dense": 32},
            {"kind": "image", "channels": 1, "height": 18, "width": 18},
            {"learning_rate": 0.005, "precision": "bfloat16"},
        ),
    ],
    ids=["logistic", "cnn"],
)
def test_digits_are_learnt_in_a_few_epochs(model: dict[str, Any], data: dict[str, Any], keys: dict[str, Any]) -> None:
    pixels, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    pixels, labels = pixels[order], labels[order].astype(np.int64)
    if data["kind"] == "image":
        images = np.pad(np.kron((pixels * 15).reshape(-1, 8, 8), np.ones((2, 2))), ((0, 0), (1, 1), (1, 1)))
        features = images.astype(np.uint8)[..., None]
    else:
        features = (pixels / 16).astype(np.float32)
    plan = make_plan(model, {**data, "classes": [str(digit) for digit in range(10)]}, epochs=4, **keys)
    site = make_site(plan, Dataset(features=features, labels=labels), train=1300)
    start = site.initial(0)
    counts = of_classes(site.evaluate(start + site.train(start, round_number=1, seed=1).delta, "test"))
    assert np.trace(counts.confusion) / counts.num_examples > 0.9
