from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.server.strategies.played import stepped

from hansa_common.errors import PlanError
from hansa_common.parameters import CHUNK, Accumulator, Vector
from hansa_common.plan import AggregationPlan
from hansa_server.strategies import Contribution, Strategy, build_strategy
from hansa_server.strategies.fedavg import FedAvg, FedAvgOptions


def averaged(strategy: Strategy, current: Vector, updates: Sequence[tuple[Vector, int]]) -> Vector:
    contributions = [
        Contribution(site=f"site-{index}", delta=delta, num_examples=n, steps=1)
        for index, (delta, n) in enumerate(updates)
    ]
    return stepped(strategy, current, contributions)


def test_fedavg_is_algorithm_1_of_the_paper() -> None:
    """Oracle: average of parameters weighted by examples, as the paper writes it, in float64."""
    rng = np.random.default_rng(0)
    size = 2 * CHUNK + 17
    current = rng.normal(size=size).astype(np.float32)
    local = [current + rng.normal(size=size).astype(np.float32) for _ in range(3)]
    examples = [5, 70, 600]
    expected = sum(n * w.astype(np.float64) for n, w in zip(examples, local, strict=True)) / sum(examples)
    result = averaged(FedAvg(), current, [(w - current, n) for n, w in zip(examples, local, strict=True)])
    assert result.dtype == np.float32
    assert np.allclose(result, expected, atol=1e-6)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.integers(1, 2 * CHUNK + 9), st.integers(1, 5), st.integers(0, 2**32))
def test_parts_give_the_bits_of_the_whole(size: int, sites: int, seed: int) -> None:
    """Oracle: one float64 sum of the model's size, to which each site's update is added in turn."""
    rng = np.random.default_rng(seed)
    current = rng.normal(size=size).astype(np.float32)
    updates = [((rng.normal(size=size) * 1e3).astype(np.float32), int(rng.integers(1, 10**6))) for _ in range(sites)]
    total = np.zeros(size)
    for delta, n in updates:
        total += n * delta.astype(np.float64)
    expected = (current + total / sum(n for _, n in updates)).astype(np.float32)
    assert averaged(FedAvg(), current, updates).tobytes() == expected.tobytes()


def test_fedavg_starts_afresh_each_round() -> None:
    strategy = FedAvg()
    for value in (8.0, 2.0):
        assert averaged(strategy, np.zeros(3, np.float32), [(np.full(3, value, np.float32), 4)]).tolist() == [value] * 3


def test_averaging_nothing_is_a_bug_of_the_caller() -> None:
    with pytest.raises(RuntimeError):
        averaged(FedAvg(), np.zeros(3, np.float32), [])


def test_a_sum_that_float32_would_lose_is_kept() -> None:
    updates = [(np.array([value], np.float32), 1) for value in (1e8, 1.0, -1e8)]
    assert averaged(FedAvg(), np.zeros(1, np.float32), updates)[0] == np.float32(1.0 / 3.0)


class Median(Strategy):
    """A rule that compares the updates."""

    options = FedAvgOptions

    def step(self, part: slice, parameters: Vector, updates: Iterator[Contribution]) -> Accumulator:
        del part
        following: Accumulator = parameters + np.median(np.stack([update.delta for update in updates]), axis=0)
        return following


class Momentum(Strategy):
    """A rule that keeps a vector over rounds."""

    options = FedAvgOptions

    def __init__(self, size: int) -> None:
        self.velocity = np.zeros(size)

    def step(self, part: slice, parameters: Vector, updates: Iterator[Contribution]) -> Accumulator:
        self.velocity[part] = 0.9 * self.velocity[part] + np.mean([update.delta for update in updates], axis=0)
        following: Accumulator = parameters + self.velocity[part]
        return following


def test_a_rule_sees_a_part_of_all_updates_and_where_it_lies() -> None:
    size = CHUNK + 5
    rng = np.random.default_rng(3)
    deltas = [rng.normal(size=size).astype(np.float32) for _ in range(3)]
    current = np.zeros(size, np.float32)
    assert np.array_equal(averaged(Median(), current, [(delta, 1) for delta in deltas]), np.median(deltas, axis=0))
    momentum = Momentum(size)
    for _ in range(2):
        found = averaged(momentum, current, [(delta, 1) for delta in deltas])
    assert np.allclose(found, 1.9 * np.mean(deltas, axis=0), atol=1e-6)


def test_an_unknown_strategy_is_explained() -> None:
    with pytest.raises(PlanError, match=r"aggregation.strategy.*Did you mean 'fedavg'"):
        build_strategy(AggregationPlan(strategy="fedavgg"))


def test_an_unknown_option_is_explained() -> None:
    with pytest.raises(PlanError, match=r"aggregation\.mu: unknown key"):
        build_strategy(AggregationPlan.model_validate({"strategy": "fedavg", "mu": 0.1}))


def test_a_foreign_state_is_refused() -> None:
    with pytest.raises(RuntimeError, match="momentum"):
        FedAvg().restore({"momentum": np.zeros(3)})
