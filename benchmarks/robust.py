"""What rules against hostile sites withstand, and what they cost: MNIST, 20 sites, 4 of them hostile.

A perceptron 784-64-10 learns for 25 rounds of 10 steps of SGD (rate 0.1, batches of 32) under each of nine attacks. The
aggregation is the product's own strategy code; training is a few lines that step all sites at once, so that hundreds of
runs fit into minutes. The attacks are those of the tests. FLTrust has one more site, with 100 clean images.

The backdoor comes twice: with updates three times as long, so that the model takes it up at once (model replacement,
Bagdasaryan et al., AISTATS 2020), which is one of the nine attacks, and as the hostile sites train it, which is slower
and harder to tell from honest updates: it has a column of its own.
"""

import gzip
import os
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from tests.attacks import UPDATE_ATTACKS, add_trigger, backdoor, flip_labels

from benchmarks.table import print_table
from hansa_common.parameters import Vector
from hansa_common.plan import AggregationPlan
from hansa_common.training_plan import TrainingPlan
from hansa_server.strategies import Contribution, build_strategy, next_parameters

_SITES: Final = 20
_HOSTILE: Final = 4
_ROUNDS: Final = 25
_STEPS: Final = 10
_BATCH: Final = 32
_RATE: Final = 0.1
_ROOT: Final = 100  # clean images of the trusted site
_TARGET: Final = 0  # of the backdoor
_HIDDEN: Final = 64
_BOOST: Final = 3.0  # of the longer backdoor
_SPLITS: Final[Mapping[str, tuple[float, tuple[int, ...]]]] = {"IID": (np.inf, (1,)), "Dirichlet .3": (0.3, (1, 2, 3))}
"""Alpha, and the seeds of the splits."""
_QUIET: Final = "quiet backdoor"  # not of the nine
_ATTACKS: Final = ("none", "label flip", "backdoor", _QUIET, *UPDATE_ATTACKS)

_RULES: Final[Mapping[str, tuple[str, dict[str, Any]]]] = {
    "NNM + trimmed mean": ("trimmed_mean", {"hostile": _HOSTILE, "nnm": True}),
    "FLTrust (100 clean images)": ("fltrust", {"root": "root"}),
    "mean": ("fedavg", {}),
    "trimmed mean": ("trimmed_mean", {"hostile": _HOSTILE}),
    "coordinate median": ("median", {}),
    "Multi-Krum": ("multi_krum", {"hostile": _HOSTILE}),
    "geometric median (RFA)": ("geometric_median", {}),
    "centered clipping": ("centered_clipping", {"radius": 0.5, "iterations": 3}),
    "NNM + geometric median": ("geometric_median", {"hostile": _HOSTILE, "nnm": True}),
}
_PUBLISHED: Final[Mapping[tuple[str, str], tuple[float | None, float, float | None]]] = {
    ("mean", "IID"): (None, 78.5, 1.00),
    ("coordinate median", "IID"): (None, 88.9, 0.01),
    ("trimmed mean", "IID"): (None, 88.7, 0.01),
    ("Multi-Krum", "IID"): (None, 89.1, 0.01),
    ("geometric median (RFA)", "IID"): (None, 89.0, 0.52),
    ("centered clipping", "IID"): (None, 88.9, 0.77),
    ("FLTrust (100 clean images)", "IID"): (None, 90.2, 0.01),
    ("NNM + trimmed mean", "IID"): (None, 89.3, 0.01),
    ("mean", "Dirichlet .3"): (88.6, 23.8, 1.00),
    ("coordinate median", "Dirichlet .3"): (87.2, 66.4, 0.05),
    ("trimmed mean", "Dirichlet .3"): (87.9, 77.1, 0.04),
    ("Multi-Krum", "Dirichlet .3"): (87.9, 74.1, 0.01),
    ("geometric median (RFA)", "Dirichlet .3"): (88.6, 83.8, 0.98),
    ("centered clipping", "Dirichlet .3"): (88.6, 84.5, 0.99),
    ("FLTrust (100 clean images)", "Dirichlet .3"): (88.5, 88.3, 0.02),
    ("NNM + trimmed mean", "Dirichlet .3"): (88.3, 81.3, 0.01),
}
"""No attack, worst attack in %, and backdoor success, of an earlier measurement of the same setting by other code."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Data:
    train: npt.NDArray[np.float32] = field(repr=False)  # [60000, 784]
    train_labels: npt.NDArray[np.int64] = field(repr=False)
    test: npt.NDArray[np.float32] = field(repr=False)
    test_labels: npt.NDArray[np.int64] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Outcome:
    accuracy: float  # %
    backdoor: float  # share of triggered images of other digits that are taken for the target


def run(repeat: int) -> None:
    """Run every rule under every attack on both splits, once each: ``repeat`` does not matter."""
    del repeat
    folder = Path(os.environ.get("HANSA_TEST_DATA", Path(__file__).parents[2] / "shared" / "data")) / "mnist"
    if not folder.is_dir():
        print(f"\nSkipped: there is no {folder}; name the folder that holds it by --data.")
        return
    data = _read(folder)
    for split, (alpha, seeds) in _SPLITS.items():
        rows = []
        for rule in _RULES:
            found = [
                {attack: _study(data, sites, rule, attack) for attack in _ATTACKS}
                for sites in (_divide(data, alpha, seed) for seed in seeds)
            ]
            rows.append(_row(rule, split, found))
            for outcomes in found:
                print(rule, split, {name: round(one.accuracy, 1) for name, one in outcomes.items()}, flush=True)
        several = f", {len(seeds)} splits" if len(seeds) > 1 else ""
        head = [f"MNIST, 20 sites, 4 hostile, {split}{several}", "no attack", "before", "worst of nine", "before"]
        print_table([*head, "worst is", "backdoor success", "before", _QUIET], rows)


def _row(rule: str, split: str, found: Sequence[Mapping[str, _Outcome]]) -> list[str]:
    """Return means over the splits, with the least or most in brackets where there are several."""
    attacked = [{name: one.accuracy for name, one in each.items() if name not in ("none", _QUIET)} for each in found]
    worst = Counter(min(each, key=lambda name: each[name]) for each in attacked).most_common(1)[0][0]
    clean, before, success = _PUBLISHED.get((rule, split), (None, None, None))
    return [
        rule,
        _mean([each["none"].accuracy for each in found], 1),
        _shown(clean, 1),
        _mean([min(each.values()) for each in attacked], 1, min),
        _shown(before, 1),
        worst,
        _mean([each["backdoor"].backdoor for each in found], 2, max),
        _shown(success, 2),
        _mean([each[_QUIET].backdoor for each in found], 2, max),
    ]


def _mean(values: Sequence[float], digits: int, extreme: Callable[[Sequence[float]], float] | None = None) -> str:
    mean = f"{statistics.mean(values):.{digits}f}"
    return mean if extreme is None or len(values) == 1 else f"{mean} ({extreme(values):.{digits}f})"


def _shown(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _study(data: _Data, sites: list[npt.NDArray[np.int64]], rule: str, attack: str) -> _Outcome:
    """Run one study and evaluate its last model."""
    name, options = _RULES[rule]
    strategy = build_strategy(
        AggregationPlan(strategy=name, options=options),
        TrainingPlan(optimizer="sgd", learning_rate=_RATE, steps=_STEPS, batch_size=_BATCH),
    )
    rng = np.random.default_rng(1)
    members = list(sites)
    if name == "fltrust":
        members.append(rng.choice(len(data.train), size=_ROOT, replace=False))
    hostile = slice(0, _HOSTILE)
    parameters = _initial()
    for _ in range(_ROUNDS):
        picked = np.stack([rng.choice(member, size=(_STEPS, _BATCH)) for member in members])
        images, labels = data.train[picked], data.train_labels[picked]
        if attack == "label flip":
            labels[hostile] = flip_labels(labels[hostile], 10)
        if attack in ("backdoor", _QUIET):
            for site in range(_HOSTILE):
                for step in range(_STEPS):
                    shown, wrong = backdoor(images[site, step].reshape(-1, 28, 28), labels[site, step], target=_TARGET)
                    images[site, step], labels[site, step] = shown.reshape(-1, 784), wrong
        deltas = _train(parameters, images, labels)
        if attack == "backdoor":
            deltas[hostile] *= np.float32(_BOOST)
        if attack in UPDATE_ATTACKS:
            honest = deltas[_HOSTILE:_SITES].astype(np.float64)
            deltas[hostile] = UPDATE_ATTACKS[attack](honest, deltas[hostile].astype(np.float64), rng)
        updates = [
            Contribution(site=f"site-{site:02}" if site < _SITES else "root", delta=one, num_examples=1, steps=_STEPS)
            for site, one in enumerate(deltas)
        ]
        parameters = np.concatenate(list(next_parameters(strategy, parameters, updates)))
    marked = add_trigger(data.test.reshape(-1, 28, 28)).reshape(-1, 784)[data.test_labels != _TARGET]
    right = _predict(parameters, data.test) == data.test_labels
    return _Outcome(
        accuracy=100.0 * float(right.mean()), backdoor=float((_predict(parameters, marked) == _TARGET).mean())
    )


# --- a perceptron at all sites at once; S sites, N images ---


def _shapes(parameters: npt.NDArray[np.float32]) -> list[npt.NDArray[np.float32]]:
    """Return views of ``[S, P]`` as both layers' weights and biases."""
    sizes = ((784, _HIDDEN), (1, _HIDDEN), (_HIDDEN, 10), (1, 10))
    edges = np.cumsum([0, *(rows * columns for rows, columns in sizes)])
    return [
        parameters[:, start:end].reshape(len(parameters), *size)
        for start, end, size in zip(edges, edges[1:], sizes, strict=False)
    ]


def _initial() -> Vector:
    """Draw weights as PyTorch's linear layer does: uniform, up to one over the root of the inputs."""
    rng = np.random.default_rng(0)
    layers = [(784, 785 * _HIDDEN), (_HIDDEN, (_HIDDEN + 1) * 10)]
    return np.concatenate([rng.uniform(-1, 1, size) / np.sqrt(inputs) for inputs, size in layers]).astype(np.float32)


def _train(parameters: Vector, images: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]) -> Any:
    """Return each site's delta, ``float32 [S, P]``, after a step of SGD on each batch ``[S, steps, N, 784]``."""
    current = np.tile(parameters, (len(images), 1))
    first, first_bias, second, second_bias = _shapes(current)
    for step in range(images.shape[1]):
        batch = images[:, step]
        hidden = np.maximum(batch @ first + first_bias, 0.0)
        error = _softmax(hidden @ second + second_bias)
        np.put_along_axis(
            error, labels[:, step, :, None], np.take_along_axis(error, labels[:, step, :, None], axis=2) - 1, axis=2
        )
        error *= np.float32(_RATE / images.shape[2])
        back = (error @ second.transpose(0, 2, 1)) * (hidden > 0.0)
        second -= hidden.transpose(0, 2, 1) @ error
        second_bias -= error.sum(axis=1, keepdims=True)
        first -= batch.transpose(0, 2, 1) @ back
        first_bias -= back.sum(axis=1, keepdims=True)
    return current - parameters


def _softmax(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    raised = np.exp(logits - logits.max(axis=-1, keepdims=True))
    shares: npt.NDArray[np.float32] = raised / raised.sum(axis=-1, keepdims=True)
    return shares


def _predict(parameters: Vector, images: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    first, first_bias, second, second_bias = (one[0] for one in _shapes(parameters[None]))
    found: npt.NDArray[np.int64] = (np.maximum(images @ first + first_bias, 0.0) @ second + second_bias).argmax(axis=1)
    return found


# --- data ---


def _divide(data: _Data, alpha: float, seed: int) -> list[npt.NDArray[np.int64]]:
    """Divide each class among the sites by shares from Dir(alpha), as ``partition = "dirichlet:ALPHA"`` does."""
    rng = np.random.default_rng(seed)
    if alpha == np.inf:
        return np.split(rng.permutation(len(data.train)), _SITES)
    parts: list[list[npt.NDArray[np.int64]]] = [[] for _ in range(_SITES)]
    for label in range(10):
        members = rng.permutation(np.flatnonzero(data.train_labels == label))
        edges = (np.cumsum(rng.dirichlet(np.full(_SITES, alpha)))[:-1] * len(members)).astype(int)
        for site, part in zip(parts, np.split(members, edges), strict=True):
            site.append(part)
    return [np.concatenate(site) for site in parts]


def _read(folder: Path) -> _Data:
    train, test = (
        (_idx(folder / f"{part}-images-idx3-ubyte.gz", 16).reshape(-1, 784) / 255.0).astype(np.float32)
        for part in ("train", "t10k")
    )
    labels = [_idx(folder / f"{part}-labels-idx1-ubyte.gz", 8).astype(np.int64) for part in ("train", "t10k")]
    return _Data(train=train, train_labels=labels[0], test=test, test_labels=labels[1])


def _idx(path: Path, header: int) -> npt.NDArray[np.uint8]:
    return np.frombuffer(gzip.decompress(path.read_bytes()), dtype=np.uint8, offset=header)
