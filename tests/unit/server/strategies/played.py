"""Rounds of made-up updates that strategies and their oracles step through alike."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from hansa_common.curvature import Curvature, pack
from hansa_common.parameters import Accumulator, ParameterSpec, Tensor, Vector
from hansa_common.plan import AggregationPlan
from hansa_common.strategies import STRATEGIES
from hansa_common.training_plan import TrainingPlan
from hansa_server.strategies import Contribution, Strategy, build_strategy, next_parameters

Options = Mapping[str, bool | float | str]
SIZE = 150  # three parts, see conftest.py
CURVED = 70  # two; a Hessian has its square
SGD = TrainingPlan(optimizer="sgd", learning_rate=0.1, epochs=1)
SITES = tuple(f"site-{number}" for number in range(7))


def size_of(name: str) -> int:
    """Return of how many values the models are that this strategy is tried with."""
    return CURVED if STRATEGIES[name].second_order else SIZE


def made(name: str, options: Options | None = None, *, training: TrainingPlan = SGD) -> Strategy:
    strategy = build_strategy(AggregationPlan(strategy=name, options=dict(options or {})), training)
    strategy.introduce(sites=len(SITES))
    strategy.inspect(ParameterSpec(tensors=(Tensor(name="w", shape=(size_of(name),)),)))
    return strategy


def rounds(count: int = 4, *, size: int = SIZE, seed: int = 0, missing: bool = True) -> Iterator[list[Contribution]]:
    """Yield the updates of each round; from the second on one site is missing, another one each time."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        yield [
            Contribution(
                site=site,
                delta=rng.normal(0.1, 0.5, size=size).astype(np.float32),
                num_examples=int(rng.integers(1, 500)),
                steps=int(rng.integers(1, 40)),
                loss=float(rng.uniform(0.1, 3.0)),
            )
            for position, site in enumerate(SITES)
            if not (missing and number and position == number % len(SITES))
        ]


def curvatures(count: int) -> Iterator[list[Contribution]]:
    """Yield such rounds of a strategy whose sites tell the curvature of their losses."""
    rng = np.random.default_rng(1)
    for everybody in rounds(count, missing=False):
        updates = everybody[:2]
        roots = [rng.normal(size=(CURVED, CURVED)) for _ in updates]
        yield [
            replace(
                update,
                delta=pack(Curvature(loss=update.loss or 0.0, gradient=rng.normal(size=CURVED), hessian=root.T @ root)),
            )
            for update, root in zip(updates, roots, strict=True)
        ]


def start(size: int = SIZE) -> Vector:
    return np.random.default_rng(99).normal(size=size).astype(np.float32)


def stepped(strategy: Strategy, parameters: Vector, updates: Sequence[Contribution]) -> Vector:
    return np.concatenate(list(next_parameters(strategy, parameters, updates)))


def matrix(updates: Sequence[Contribution]) -> Accumulator:
    return np.stack([update.delta for update in updates]).astype(np.float64)


def shares(updates: Sequence[Contribution]) -> Accumulator:
    examples = np.array([update.num_examples for update in updates], np.float64)
    share: Accumulator = examples / examples.sum()
    return share
