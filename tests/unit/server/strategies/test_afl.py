from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.server.strategies.played import SITES, made, matrix, rounds, start, stepped

from hansa_common.parameters import Accumulator
from hansa_server.strategies.afl import project


def nearest_on_the_simplex(values: Accumulator) -> Accumulator:
    """Oracle: find the shift with which the clipped values sum to 1, by halving an interval."""
    low, high = float(values.min()) - 1.0, float(values.max())
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if np.maximum(values - middle, 0).sum() > 1 else (low, middle)
    nearest: Accumulator = np.maximum(values - low, 0)
    return nearest


@settings(max_examples=40, derandomize=True)
@given(st.lists(st.floats(-50, 50), min_size=1, max_size=8))
def test_the_projection_is_on_the_simplex_and_nearest(values: list[float]) -> None:
    found = project(np.array(values))
    assert found.min() >= 0.0
    assert found.sum() == pytest.approx(1.0, abs=1e-12)
    assert np.allclose(found, nearest_on_the_simplex(np.array(values)), atol=1e-9)


def test_it_is_algorithm_1_of_the_paper_over_rounds_with_sites_missing() -> None:
    strategy, found = made("afl", {"lambda_learning_rate": 0.2}), start()
    w, weight = found.astype(np.float64), dict.fromkeys(SITES, 1 / len(SITES))
    for updates in rounds():
        present = [update.site for update in updates]
        now = np.array([weight[site] for site in present])
        w = w + (now / now.sum()) @ matrix(updates)
        gradient = dict.fromkeys(SITES, 0.0) | {update.site: update.loss or 0.0 for update in updates}
        moved = nearest_on_the_simplex(np.array([weight[site] + 0.2 * gradient[site] for site in SITES]))
        weight = dict(zip(SITES, moved.tolist(), strict=True))
        found = stepped(strategy, found, updates)
        assert np.allclose(found, w, atol=1e-5)
    kept = {name.removeprefix("lambda/"): float(value[0]) for name, value in strategy.state().items()}
    assert kept == pytest.approx(weight, abs=1e-9)


def test_a_site_that_comes_later_starts_with_the_mean_weight() -> None:
    strategy = made("afl", {"lambda_learning_rate": 1e-12})
    (updates,) = rounds(1, size=2)
    stepped(strategy, start(2), updates[:3])
    stepped(strategy, start(2), updates[:4])
    assert [float(value[0]) for value in strategy.state().values()] == pytest.approx([0.25] * 4)


def test_where_those_present_have_no_weight_they_are_averaged() -> None:
    strategy = made("afl", {"lambda_learning_rate": 100.0})
    (one, other, *_), *_ = rounds(1, size=1)
    stepped(strategy, start(1), [replace(one, loss=0.0), replace(other, loss=5.0)])
    assert strategy.state()[f"lambda/{one.site}"][0] == 0.0
    found = stepped(strategy, np.zeros(1, np.float32), [replace(one, delta=np.ones(1, np.float32))])
    assert found.tolist() == [1.0]


def test_minimax_ends_where_the_losses_are_equal() -> None:
    """Losses ``(x - 1)^2`` and ``4 (x + 1)^2`` are equal at ``x = -1/3``, where the larger of both is least."""
    strategy, x = made("afl", {"lambda_learning_rate": 0.01}), np.zeros(1, np.float32)
    (one, other, *_), *_ = rounds(1, size=1)
    for _ in range(1500):
        value = float(x[0])
        updates = [
            replace(one, delta=np.array([-0.01 * 2 * (value - 1)], np.float32), loss=(value - 1) ** 2),
            replace(other, delta=np.array([-0.01 * 8 * (value + 1)], np.float32), loss=4 * (value + 1) ** 2),
        ]
        x = stepped(strategy, x, updates)
    assert float(x[0]) == pytest.approx(-1 / 3, abs=0.01)
