import numpy as np
import pytest

from hansa_common.errors import PlanError
from hansa_common.parameters import CHUNK
from hansa_common.plan import AggregationPlan
from hansa_server.strategies import STRATEGIES, Contribution, build_strategy
from hansa_server.strategies.fedavg import FedAvg


def test_fedavg_is_algorithm_1_of_the_paper() -> None:
    """Oracle: average of parameters weighted by examples, as the paper writes it, in float64."""
    rng = np.random.default_rng(0)
    size = 2 * CHUNK + 17
    current = rng.normal(size=size).astype(np.float32)
    local = [current + rng.normal(size=size).astype(np.float32) for _ in range(3)]
    examples = [5, 70, 600]
    expected = sum(n * w.astype(np.float64) for n, w in zip(examples, local, strict=True)) / sum(examples)
    strategy = FedAvg()
    for index, (n, w) in enumerate(zip(examples, local, strict=True)):
        strategy.fold(Contribution(site=str(index), delta=w - current, num_examples=n, steps=1))
    result = strategy.finish(current)
    assert result.dtype == np.float32
    assert np.allclose(result, expected, atol=1e-6)


def test_fedavg_starts_afresh_each_round() -> None:
    strategy = FedAvg()
    for value in (8.0, 2.0):
        strategy.fold(Contribution(site="a", delta=np.full(3, value, np.float32), num_examples=4, steps=1))
        assert strategy.finish(np.zeros(3, np.float32)).tolist() == [value] * 3


def test_averaging_nothing_is_a_bug_of_the_caller() -> None:
    with pytest.raises(RuntimeError):
        FedAvg().finish(np.zeros(3, np.float32))


def test_a_sum_that_float32_would_lose_is_kept() -> None:
    strategy = FedAvg()
    for value in (1e8, 1.0, -1e8):
        strategy.fold(Contribution(site="a", delta=np.array([value], np.float32), num_examples=1, steps=1))
    assert strategy.finish(np.zeros(1, np.float32))[0] == np.float32(1.0 / 3.0)


def test_an_unknown_strategy_is_explained() -> None:
    with pytest.raises(PlanError, match=r"aggregation.strategy.*Did you mean 'fedavg'"):
        build_strategy(AggregationPlan(strategy="fedavgg"))


def test_an_unknown_option_is_explained() -> None:
    with pytest.raises(PlanError, match=r"aggregation\.mu: unknown key"):
        build_strategy(AggregationPlan.model_validate({"strategy": "fedavg", "mu": 0.1}))


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_every_strategy_comes_back_from_its_state(name: str) -> None:
    one, other = STRATEGIES[name](), STRATEGIES[name]()
    delta = np.arange(4, dtype=np.float32)
    current = np.zeros(4, np.float32)
    for strategy in (one, other):
        strategy.fold(Contribution(site="a", delta=delta, num_examples=2, steps=1))
    current = one.finish(current)
    other.finish(current)
    resumed = STRATEGIES[name]()
    resumed.restore(one.state())
    for strategy in (one, resumed):
        strategy.fold(Contribution(site="a", delta=delta, num_examples=2, steps=1))
    assert one.finish(current).tobytes() == resumed.finish(current).tobytes()


def test_a_foreign_state_is_refused() -> None:
    with pytest.raises(RuntimeError, match="momentum"):
        FedAvg().restore({"momentum": np.zeros(3)})
