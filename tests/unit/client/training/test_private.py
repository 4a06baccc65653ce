"""DP-SGD against oracles written from the paper, and each rule that its guarantee stands on."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn
from torch.nn import functional

from hansa_client.data.source import Dataset
from hansa_client.data.split import Splits
from hansa_client.training import SupervisedTraining, private
from hansa_client.training.corrections import Proximal
from hansa_client.training.per_example import example_gradients
from hansa_client.training.private import GRID, PrivateTraining
from hansa_client.training.secure_random import SecureRandomness
from hansa_common.errors import ContractViolation, TaskRefused, TrainingError
from hansa_common.metrics import of_classes
from hansa_common.models import ARCHITECTURES, Architecture
from hansa_common.models.cnn import CNNOptions, build
from hansa_common.parameters import Vector
from hansa_common.plan import StudyPlan, parse_plan
from hansa_common.settings import Strict

CPU = torch.device("cpu")
CNN = {"name": "cnn", "filters": [4, 6, 5], "dense": 7}
IMAGE = {"kind": "image", "classes": ["a", "b", "c"], "channels": 3, "height": 18, "width": 20}
ARRAY = {"kind": "array", "classes": ["a", "b", "c"], "shape": [5]}
SILENT = 1e-9  # a noise multiplier whose noise is rounded to nothing; no plan may ask for it
Floats = npt.NDArray[np.float64]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make_plan(
    model: dict[str, Any] | None = None,
    data: dict[str, Any] | None = None,
    privacy: dict[str, Any] | None = None,
    **training: Any,
) -> StudyPlan:
    differential = {
        "kind": "example",
        "clipping_bound": 1.0,
        "noise_multiplier": 1.0,
        "epsilon": 8.0,
        "delta": 1e-5,
        "sampling_rate": 0.25,
    }
    sgd = {"optimizer": "sgd", "learning_rate": 1.0, "steps": 1, "batch_size": 10}
    plan = parse_plan(
        {
            "name": "test",
            "purpose": "A test.",
            "model": model or {"name": "logistic"},
            "data": data or ARRAY,
            "training": sgd | training,
            "rounds": {"count": 4},
            "privacy": {"weights": "equal", "differential": differential | (privacy or {})},
        }
    )
    if privacy is not None and "noise_multiplier" in privacy:
        return plan
    assert plan.privacy.differential is not None
    silent = plan.privacy.differential.model_copy(update={"noise_multiplier": SILENT})
    return plan.model_copy(update={"privacy": plan.privacy.model_copy(update={"differential": silent})})


def make_dataset(count: int = 60, *, images: bool = False, persons: npt.NDArray[np.int64] | None = None) -> Dataset:
    rng = np.random.default_rng(0)
    labels = rng.choice(3, size=count, p=[0.5, 0.3, 0.2])
    columns = {} if persons is None else {"patient": persons.astype(np.str_)}
    if images:
        features = rng.integers(0, 256, (count, 18, 20, 3), dtype=np.uint8)
        return Dataset(features=features, labels=labels, columns=columns)
    # Lengths of 0.1 to 10: some gradients are clipped, others not.
    scale = 10.0 ** rng.uniform(-1.0, 1.0, (count, 1))
    features = (rng.normal(size=(count, 5)) * scale).astype(np.float32)
    return Dataset(features=features, labels=labels, columns=columns)


class Scripted:
    """Draws that a test decides."""

    def __init__(
        self, chosen: list[int] | None = None, noise: Callable[[int], npt.NDArray[np.int64]] = np.zeros
    ) -> None:
        self.chosen, self.noise = chosen, noise
        self.rates: list[tuple[int, float]] = []
        self.deviations: list[float] = []
        self.limits: list[list[int]] = []

    def sample(self, count: int, rate: float) -> npt.NDArray[np.bool_]:
        self.rates.append((count, rate))
        return np.ones(count, dtype=bool) if self.chosen is None else np.isin(np.arange(count), self.chosen)

    def below(self, limits: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        self.limits.append(limits.tolist())
        return limits - 1

    def gaussian(self, deviation: float, count: int) -> npt.NDArray[np.int64]:
        self.deviations.append(deviation)
        return self.noise(count).astype(np.int64)

    def seed(self) -> int:
        return 5


def make_site(
    plan: StudyPlan, dataset: Dataset | None = None, draws: Scripted | None = None, *, train: int | None = None
) -> PrivateTraining:
    data = dataset or make_dataset(images=plan.data.kind == "image")
    return PrivateTraining(
        plan=plan,
        dataset=data,
        splits=splits_of(data, train),
        device=CPU,
        randomness=SecureRandomness if draws is None else lambda: draws,
    )


def splits_of(data: Dataset, train: int | None = None) -> Splits:
    end = train or len(data) * 2 // 3
    half = (len(data) - end) // 2
    return Splits(train=np.arange(end), validation=np.arange(end, end + half), test=np.arange(end + half, len(data)))


def clipped(gradients: Floats, bound: float) -> Floats:
    """Line "clip gradient" of algorithm 1."""
    norms: Floats = np.linalg.norm(gradients, axis=1, keepdims=True)
    return np.asarray(gradients / np.maximum(1.0, norms / bound))


def softmax_gradients(data: Dataset, rows: list[int], start: Vector, weights: list[float]) -> Floats:
    """Each row's gradient of logistic regression, by hand: ``float64 [rows, 18]``, weights then biases."""
    weight, bias = start[:15].reshape(3, 5).astype(np.float64), start[15:].astype(np.float64)
    features = data.features[rows].astype(np.float64)
    logits = features @ weight.T + bias
    probabilities = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    errors = (probabilities - np.eye(3)[data.labels[rows]]) * np.asarray(weights)[data.labels[rows], None]
    return np.concatenate([(errors[:, :, None] * features[:, None, :]).reshape(len(rows), -1), errors], axis=1)


@pytest.mark.parametrize("weights", [[1.0, 1.0, 1.0], [1.0, 4.0, 0.5]])
@pytest.mark.parametrize("noisy", [False, True])
def test_a_step_is_that_of_the_paper(weights: list[float], *, noisy: bool) -> None:
    bound, rows = 1.5, [0, 1, 5, 7, 20, 33, 39]
    noise = np.random.default_rng(3).integers(-GRID, GRID, 18) * noisy
    plan = make_plan(privacy={"clipping_bound": bound}, learning_rate=0.5, batch_size=4, class_weights=weights)
    data, draws = make_dataset(), Scripted(rows, lambda _count: noise)
    start = np.random.default_rng(1).normal(size=18).astype(np.float32)
    trained = make_site(plan, data, draws).train(start, round_number=1, seed=1)
    total = clipped(softmax_gradients(data, rows, start, weights), bound).sum(axis=0) + noise * bound / GRID
    np.testing.assert_allclose(trained.delta, -0.5 * total / 4, atol=2e-5)
    assert np.abs(total).max() > 0.5


def loop_gradients(data: Dataset, rows: list[int], start: Vector) -> Floats:
    """Each row's gradient of the CNN, one backward pass each."""
    module = build(CNNOptions(filters=(4, 6, 5), dense=7), make_plan(CNN, IMAGE).data)
    nn.utils.vector_to_parameters(torch.from_numpy(start), module.parameters())
    gradients = []
    for row in rows:
        inputs = torch.from_numpy(data.features[row : row + 1].astype(np.float32) / 255).permute(0, 3, 1, 2)
        loss = functional.cross_entropy(module(inputs.contiguous()), torch.from_numpy(data.labels[row : row + 1]))
        found = torch.autograd.grad(loss, list(module.parameters()))
        gradients.append(np.concatenate([part.numpy().ravel() for part in found]).astype(np.float64))
    return np.stack(gradients)


@pytest.mark.parametrize("at_once", [1, 7, 32, 1_000])
def test_a_step_in_parts_is_the_step_of_one_gradient_after_the_other(
    at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(private, "ROWS", at_once)
    rows = list(range(0, 40, 1))
    plan, data = make_plan(CNN, IMAGE, privacy={"clipping_bound": 1.5}), make_dataset(images=True)
    site = make_site(plan, data, Scripted(rows))
    start = site.initial(3)
    gradients = loop_gradients(data, rows, start)
    norms = np.linalg.norm(gradients, axis=1)
    assert norms.min() < 1.5 < norms.max()
    expected = clipped(gradients, 1.5).sum(axis=0)
    np.testing.assert_allclose(site.train(start, round_number=1, seed=1).delta, -expected / 10, atol=3e-5)


def test_no_more_rows_are_computed_at_once_than_memory_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    original = PrivateTraining._loss

    def watched(self: PrivateTraining, examples: Any, generator: Any) -> torch.Tensor:
        sizes.append(len(examples))
        return original(self, examples, generator)

    monkeypatch.setattr(PrivateTraining, "_loss", watched)
    monkeypatch.setattr(private, "VALUES_CPU", 18 * 32)
    make_site(make_plan(), draws=Scripted()).train(np.zeros(18, np.float32), round_number=1, seed=1)
    monkeypatch.setattr(private, "VALUES_CPU", 18 * 5)
    make_site(make_plan(), draws=Scripted()).train(np.zeros(18, np.float32), round_number=1, seed=1)
    assert sizes == [32, 8, *[5] * 8]


OPTIMIZERS: dict[str, tuple[dict[str, Any], Callable[[Any], torch.optim.Optimizer]]] = {
    "momentum and decay": (
        {"optimizer": "sgd", "learning_rate": 0.05, "momentum": 0.9, "weight_decay": 0.01},
        lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=0.01),
    ),
    "adam, linear": (
        {"optimizer": "adam", "learning_rate": 0.1, "schedule": "linear"},
        lambda p: torch.optim.Adam(p, lr=0.1),
    ),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_optimiser_steps_along_the_noised_gradient(name: str) -> None:
    keys, make_optimizer = OPTIMIZERS[name]
    noise = np.random.default_rng(3).integers(-GRID, GRID, 18)
    rows = [0, 3, 4, 8, 30]
    data, plan = make_dataset(), make_plan(steps=3, **keys)
    start = np.random.default_rng(1).normal(size=18).astype(np.float32)
    trained = make_site(plan, data, Scripted(rows, lambda _count: noise)).train(start, round_number=2, seed=1)
    parameter = nn.Parameter(torch.from_numpy(start.copy()))
    optimizer = make_optimizer([parameter])
    for step in range(3):
        if "schedule" in keys:
            optimizer.param_groups[0]["lr"] = 0.1 * (1 - (1 + step / 3) / 4)
        gradients = softmax_gradients(data, rows, parameter.detach().numpy(), [1.0] * 3)
        total = clipped(gradients, 1.0).sum(axis=0) + noise / GRID
        parameter.grad = torch.from_numpy((total / 10).astype(np.float32))
        optimizer.step()
    np.testing.assert_allclose(start + trained.delta, parameter.detach().numpy(), atol=5e-5)


def test_a_correction_is_added_after_the_noise() -> None:
    """FedProx under DP-SGD: the term depends on no example, so it is neither clipped nor noised."""
    noise, rows = np.random.default_rng(3).integers(-GRID, GRID, 18), [0, 3, 4, 8, 30]
    data, plan = make_dataset(), make_plan(steps=3, learning_rate=0.1)
    start, anchor = np.random.default_rng(1).normal(size=(2, 18)).astype(np.float32)
    trained = make_site(plan, data, Scripted(rows, lambda _count: noise)).train(
        start, round_number=2, seed=1, correction=Proximal(anchor=anchor, weight=2.0)
    )
    expected = start.astype(np.float64)
    for _ in range(3):
        total = clipped(softmax_gradients(data, rows, expected.astype(np.float32), [1.0] * 3), 1.0).sum(axis=0)
        expected -= 0.1 * ((total + noise / GRID) / 10 + 2.0 * (expected - anchor))
    np.testing.assert_allclose(start + trained.delta, expected, atol=5e-5)


@pytest.mark.parametrize("count", [30, 60])
def test_rate_steps_and_divisor_are_the_plan_s_whatever_the_data(count: int) -> None:
    draws = Scripted([])
    plan = make_plan(steps=7, batch_size=16, privacy={"sampling_rate": 0.125, "noise_multiplier": 2.0})
    site = make_site(plan, make_dataset(count), draws)
    assert site.train(np.zeros(18, np.float32), round_number=1, seed=1).steps == 7
    assert draws.rates == [(count * 2 // 3, 0.125)] * 7
    assert draws.deviations == [2.0 * GRID] * 7


def test_a_step_without_persons_is_noise() -> None:
    noise = np.arange(-9, 9) * GRID
    plan = make_plan(privacy={"clipping_bound": 0.5})
    for chosen in ([], [0, 1]):
        trained = make_site(plan, draws=Scripted(chosen, lambda _count: noise)).train(
            np.zeros(18, np.float32), round_number=1, seed=1
        )
        steps_with_noise = trained.delta * -10 / 0.5
        assert np.array_equal(np.rint(steps_with_noise), np.arange(-9, 9)) == (not chosen)


def test_noise_has_the_deviation_that_the_plan_asks_for() -> None:
    """On nobody's gradients: 100 steps of 18 parameters."""
    plan = make_plan(privacy={"clipping_bound": 0.3, "noise_multiplier": 1.7, "sampling_rate": 1e-9})
    site = make_site(plan)
    found = [site.train(np.zeros(18, np.float32), round_number=1, seed=1).delta * 10 for _ in range(100)]
    noise = np.concatenate(found).astype(np.float64)
    draws = noise.size
    assert abs(noise.mean()) <= 5.0 * 0.51 / math.sqrt(draws)
    assert abs(noise.std() / 0.51 - 1.0) <= 5.0 / math.sqrt(2.0 * draws)


def test_two_runs_with_one_seed_differ() -> None:
    site = make_site(make_plan(privacy={"noise_multiplier": 1.0}))
    first, second = (site.train(np.zeros(18, np.float32), round_number=1, seed=1).delta for _ in range(2))
    assert np.abs(first - second).min() > 0.0  # each coordinate has noise of its own
    sampled = make_site(make_plan())  # no noise to tell them apart
    runs = {sampled.train(np.zeros(18, np.float32), round_number=1, seed=1).delta.tobytes() for _ in range(5)}
    assert len(runs) > 1


def test_dropout_and_augmentation_do_not_come_from_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[int] = []
    monkeypatch.setattr(private, "seed_device", lambda _device, seed: seeds.append(seed))
    site = make_site(make_plan())
    for _ in range(2):
        site.train(np.zeros(18, np.float32), round_number=1, seed=1)
    assert seeds[0] != seeds[1]
    assert not {1} & set(seeds)
    noisy = make_plan(augmentation={"noise": 0.5})
    everybody = Scripted()
    runs = set()
    for seed in (5, 6):
        everybody.seed = lambda seed=seed: seed  # type: ignore[method-assign, misc]
        runs.add(
            make_site(noisy, draws=everybody).train(np.zeros(18, np.float32), round_number=1, seed=1).delta.tobytes()
        )
    assert len(runs) == 2


def test_initial_parameters_come_from_the_seed() -> None:
    plan = make_plan(CNN, IMAGE)
    site = make_site(plan)
    np.testing.assert_array_equal(site.initial(4), site.initial(4))
    assert not np.array_equal(site.initial(4), site.initial(5))


def test_neither_loss_nor_number_of_examples_leaves() -> None:
    trained = make_site(make_plan()).train(np.zeros(18, np.float32), round_number=1, seed=1)
    assert (trained.num_examples, trained.loss) == (1, 0.0)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
@pytest.mark.parametrize("bound", [0.01, 3.0])
def test_a_person_more_changes_the_sum_by_the_bound_at_most(scale: float, bound: float) -> None:
    """Without noise, on two real data sets: with all rows of a person, and without."""
    persons = np.repeat(np.arange(12), 5)
    base = make_dataset(persons=persons)
    data = Dataset(features=(base.features * scale).astype(np.float32), labels=base.labels, columns=base.columns)
    plan = make_plan(privacy={"clipping_bound": bound, "unit": "patient"}, batch_size=1)
    start = np.zeros(18, np.float32)
    whole = make_site(plan, data, Scripted(), train=50).train(start, round_number=1, seed=1).delta
    reached = []
    for person in range(10):
        left = np.flatnonzero(persons != person)
        delta = make_site(plan, data.take(left), Scripted(), train=45).train(start, round_number=1, seed=1).delta
        reached.append(np.linalg.norm(whole.astype(np.float64) - delta) / bound)
    assert max(reached) <= 1.0 + 1e-5
    if scale > 1.0:
        assert max(reached) > 0.99  # the bound is used


def test_no_clipped_gradient_is_longer_than_the_bound_to_the_last_bit() -> None:
    """In whole parts of the bound, so the comparison is exact."""
    plan, data = make_plan(CNN, IMAGE, privacy={"clipping_bound": 0.01}), make_dataset(images=True)
    site = make_site(plan, data)
    site._model.load(site.initial(3))
    site._model.module.train()
    longest = 0
    with example_gradients(site._model.module) as differentiate:
        for row in range(40):
            example = site._splits["train"].take(torch.tensor([row]))
            whole = site._clipped_sum(example, differentiate, torch.Generator())
            assert whole.dtype == torch.int32
            squares = sum(int(value) ** 2 for value in whole.tolist())
            assert squares <= GRID**2
            longest = max(longest, squares)
    assert longest > 0.999 * GRID**2


def test_a_person_counts_once_with_one_row_drawn_of_theirs() -> None:
    persons = np.array([7] * 30 + [8] * 10 + list(range(20)))
    data, draws = make_dataset(persons=persons), Scripted([0])
    plan = make_plan(privacy={"unit": "patient"})
    start = np.random.default_rng(1).normal(size=18).astype(np.float32)
    trained = make_site(plan, data, draws).train(start, round_number=1, seed=1)
    assert draws.rates == [(2, 0.25)]  # two persons train, with 40 rows
    assert draws.limits == [[30]]
    expected = clipped(softmax_gradients(data, [29], start, [1.0] * 3), 1.0)[0]  # the last row, as drawn
    np.testing.assert_allclose(trained.delta, -expected / 10, atol=1e-5)


def test_a_missing_unit_column_is_named() -> None:
    with pytest.raises(ContractViolation, match="'patient' is missing"):
        make_site(make_plan(privacy={"unit": "patient"}))


def test_delta_of_one_in_so_many_persons_is_refused() -> None:
    make_site(make_plan(privacy={"delta": 1 / 61}))
    with pytest.raises(TaskRefused, match="not below 1 / 60 persons"):
        make_site(make_plan(privacy={"delta": 1 / 60}))
    few = make_dataset(persons=np.repeat(np.arange(6), 10))
    make_site(make_plan(privacy={"delta": 1 / 7, "unit": "patient"}), few)  # persons count, not rows
    with pytest.raises(TaskRefused, match="not below 1 / 6 persons"):
        make_site(make_plan(privacy={"delta": 0.2, "unit": "patient"}), few)


def test_a_gradient_of_exactly_the_bound_passes_whole() -> None:
    data = make_dataset()
    start = np.random.default_rng(1).normal(size=18).astype(np.float32)
    gradient = softmax_gradients(data, [4], start, [1.0] * 3)[0]
    bound = float(np.linalg.norm(gradient))
    trained = make_site(make_plan(privacy={"clipping_bound": bound}), data, Scripted([4])).train(
        start, round_number=1, seed=1
    )
    np.testing.assert_allclose(trained.delta * -10, gradient, atol=1e-5 * bound)


def test_a_gradient_of_zero_adds_nothing() -> None:
    data = make_dataset()
    features = np.zeros_like(data.features)
    start = np.zeros(18, np.float32)
    start[15:] = [-200.0, -200.0, 200.0]
    labels = np.full_like(data.labels, 2)  # as certain as float32 can be, and right
    site = make_site(make_plan(), Dataset(features=features, labels=labels), Scripted())
    assert not site.train(start, round_number=1, seed=1).delta.any()


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e38])
def test_what_is_not_finite_does_not_pass_the_clip(value: float) -> None:
    data = make_dataset()
    start = np.zeros(18, np.float32)
    start[:15] = value
    with pytest.raises(TrainingError, match="not finite"):
        make_site(make_plan(), data, Scripted()).train(start, round_number=1, seed=1)


def test_a_plan_that_float32_cannot_keep_is_refused() -> None:
    with pytest.raises(TrainingError, match="bfloat16"):
        make_site(make_plan(precision="bfloat16"))
    with pytest.raises(TrainingError, match="too small"):
        make_site(make_plan(privacy={"clipping_bound": 1e-20}))


class Options(Strict):
    pass


class OwnNormalisation(nn.BatchNorm1d):
    pass


class BatchMean(nn.Module):
    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs - inputs.mean(dim=0)


class Unused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.unused, self.linear = nn.Linear(2, 2), nn.Linear(5, 3)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.linear(inputs)
        return result


class Counting(nn.Module):
    """Keeps a mean of what it sees, which federated averaging would send."""

    seen: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.seen += inputs.detach().mean()
        return inputs


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "batch": lambda: nn.BatchNorm1d(5),
    "own": lambda: OwnNormalisation(5, affine=False),
    "tracking": lambda: nn.InstanceNorm1d(5, affine=True, track_running_stats=True),
    "mean": BatchMean,
    "counting": Counting,
}


@pytest.fixture
def with_layer(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], dict[str, Any]]:
    def make(name: str) -> dict[str, Any]:
        def build_it(_options: Options, _contract: Any) -> nn.Module:
            if name == "unused":
                return Unused()
            return nn.Sequential(nn.Flatten(), LAYERS[name](), nn.Linear(5, 3))

        architecture = Architecture(options=Options, accepts=frozenset({"array"}), build=build_it)
        monkeypatch.setitem(ARCHITECTURES._entries, f"with-{name}", architecture)
        return {"name": f"with-{name}"}

    return make


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("batch", "layer '1' is BatchNorm1d.*Use GroupNorm"),
        ("own", "layer '1' is OwnNormalisation.*Use GroupNorm"),
        ("tracking", "layer '1' is InstanceNorm1d.*track statistics"),
        ("mean", "depends on the others of its batch"),
    ],
)
def test_a_layer_without_a_gradient_of_one_example_is_refused_before_training(
    with_layer: Callable[[str], dict[str, Any]], name: str, message: str
) -> None:
    with pytest.raises(TrainingError, match=message):
        make_site(make_plan(with_layer(name)))


def test_a_model_that_keeps_what_it_saw_sends_nothing(with_layer: Callable[[str], dict[str, Any]]) -> None:
    site = make_site(make_plan(with_layer("counting")), draws=Scripted())
    with pytest.raises(TrainingError, match="other than its trainable"):
        site.train(site.initial(0), round_number=1, seed=1)


def test_a_parameter_without_a_gradient_is_refused(with_layer: Callable[[str], dict[str, Any]]) -> None:
    site = make_site(make_plan(with_layer("unused")), draws=Scripted())
    with pytest.raises(TrainingError, match="output does not depend on"):
        site.train(site.initial(0), round_number=1, seed=1)


def test_the_model_is_left_as_it_was_for_the_process_s_other_sites() -> None:
    plan, data = make_plan(CNN, IMAGE), make_dataset(images=True)
    other = SupervisedTraining(plan=plan, dataset=data, splits=splits_of(data), device=CPU)
    start = other.initial(0)
    before = other.train(start, round_number=1, seed=3)
    site = make_site(plan, data)
    assert site._model is other._model
    site.train(start, round_number=1, seed=3)
    with pytest.raises(TrainingError):
        site.train(np.full_like(start, np.nan), round_number=1, seed=3)
    after = other.train(start, round_number=1, seed=3)
    np.testing.assert_array_equal(before.delta, after.delta)
    assert before.loss == after.loss
    assert not any(vars(layer).get("_forward_hooks") for layer in site._model.module.modules())


def test_without_noise_for_counts_nothing_is_counted() -> None:
    counts = make_site(make_plan()).evaluate(np.zeros(18, np.float32), "test")
    assert (counts.num_examples, counts.loss_units, counts.has_histograms) == (0, 0, False)


def test_one_row_of_each_person_is_counted_with_noise() -> None:
    persons = np.array([*range(40), *[50] * 6, *range(60, 64), 70, *[71] * 9])
    data = make_dataset(persons=persons)
    plan = make_plan(privacy={"unit": "patient", "metrics_noise": 3.0})
    start = np.random.default_rng(1).normal(size=18).astype(np.float32)
    draws = Scripted()
    exact = make_site(plan, data, draws).evaluate(start, "validation")
    assert draws.deviations == [3.0]
    assert sorted(draws.limits[0]) == [1, 1, 1, 1, 6]
    rows = Splits(train=np.arange(40), validation=np.array([45, 46, 47, 48, 49]), test=np.arange(50, 60))
    plain = SupervisedTraining(plan=plan, dataset=data, splits=rows, device=CPU)
    np.testing.assert_array_equal(exact.confusion, of_classes(plain.evaluate(start, "validation")).confusion)
    assert exact.loss_units == 0
    noised = make_site(plan, data).evaluate(start, "validation")
    assert noised.num_examples != 5 or not np.array_equal(noised.confusion, exact.confusion)
