from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
from tests.unit.server.strategies.played import stepped

from hansa_common.curvature import Curvature, pack
from hansa_common.errors import StudyFailed
from hansa_common.parameters import ParameterSpec, Tensor, Vector
from hansa_server.strategies import Contribution
from hansa_server.strategies.newton import Newton

Floats = npt.NDArray[np.float64]
SPEC = ParameterSpec(tensors=(Tensor(name="linear.weight", shape=(1, 2)), Tensor(name="linear.bias", shape=(1,))))


def newton(ridge: float = 0.0) -> Newton:
    strategy = Newton(ridge=ridge)
    strategy.inspect(SPEC)
    return strategy


def told(site: str, examples: int, loss: float, gradient: Sequence[float] | Floats, hessian: Floats) -> Contribution:
    vector = pack(Curvature(loss=loss, gradient=np.asarray(gradient, np.float64), hessian=hessian))
    return Contribution(site=site, delta=vector, num_examples=examples, steps=1)


def bowl(site: str, examples: int, centre: Sequence[float], shape: Floats, at: Vector) -> Contribution:
    """The site's mean loss is ``1/2 (x - centre)' shape (x - centre)``."""
    off = at.astype(np.float64) - centre
    return told(site, examples, float(0.5 * off @ shape @ off), shape @ off, shape)


def shape(seed: int) -> Floats:
    root = np.random.default_rng(seed).normal(size=(5, 3))
    product: Floats = root.T @ root
    return product


@pytest.mark.parametrize("ridge", [0.0, 0.7])
def test_one_step_leads_to_the_minimum_of_all_sites_examples_together(ridge: float) -> None:
    at = np.array([3.0, -2.0, 1.0], np.float32)
    sites = [("a", 10, [1.0, 2.0, 3.0]), ("b", 30, [0.0, -1.0, 1.0])]
    updates = [bowl(site, n, centre, shape(n), at) for site, n, centre in sites]
    left = sum(n / 40 * shape(n) for _, n, _ in sites) + ridge * np.diag([1.0, 1.0, 0.0])  # the bias is free
    right = sum(n / 40 * shape(n) @ centre for _, n, centre in sites)
    np.testing.assert_allclose(stepped(newton(ridge), at, updates), np.linalg.solve(left, right), rtol=3e-7)


def test_a_step_after_which_the_loss_rose_is_halved_from_where_it_started_also_after_a_restart() -> None:
    eye, start = np.eye(3), np.array([1.0, 0.0, 0.0], np.float32)
    strategy = newton()
    first = stepped(strategy, start, [told("a", 1, 2.0, [4.0, 0.0, 0.0], eye)])
    assert first.tolist() == [-3.0, 0.0, 0.0]
    strategy, state = newton(), strategy.state()
    strategy.restore(state)
    second = stepped(strategy, first, [told("a", 1, 2.5, [9.0, 9.0, 9.0], eye)])
    assert second.tolist() == [-1.0, 0.0, 0.0]
    third = stepped(strategy, second, [told("a", 1, 2.5, [9.0, 9.0, 9.0], eye)])
    assert third.tolist() == [0.0, 0.0, 0.0]
    fourth = stepped(strategy, third, [told("a", 1, 2.0, [0.0, 1.0, 0.0], eye)])  # no rise: a new step
    assert fourth.tolist() == [0.0, -1.0, 0.0]


def test_the_penalty_counts_in_what_is_compared() -> None:
    strategy = newton(1.0)
    far = stepped(strategy, np.zeros(3, np.float32), [told("a", 1, 2.0, [-8.0, 0.0, 0.0], np.eye(3))])
    assert far.tolist() == [4.0, 0.0, 0.0]
    halved = stepped(strategy, far, [told("a", 1, 1.9, [2.0, 0.0, 0.0], np.eye(3))])  # and 1/2 * 16 for the weights
    assert halved.tolist() == [2.0, 0.0, 0.0]


def test_nothing_moves_along_a_direction_without_curvature_whatever_its_unit() -> None:
    flat = np.array([[1.0, -1e4, 0.0], [-1e4, 1e8, 0.0], [0.0, 0.0, 0.0]])
    found = stepped(newton(), np.zeros(3, np.float32), [told("a", 1, 1.0, [1.0, -1e4, 0.0], flat)])
    np.testing.assert_allclose(found, [-0.5, 0.5e-4, 0.0], rtol=1e-6)


@pytest.mark.parametrize("hostile", [-50.0 * np.eye(3), np.eye(3) - 60.0 * np.ones((3, 3)) + 60.0 * np.eye(3)])
def test_a_site_whose_curvature_is_none_is_named(hostile: Floats) -> None:
    updates = [told("fair", 1, 1.0, [1.0, 1.0, 1.0], np.eye(3)), told("foul", 1, 1.0, [1.0, 1.0, 1.0], hostile)]
    with pytest.raises(StudyFailed, match="not convex by itself: foul"):
        stepped(newton(), np.zeros(3, np.float32), updates)


def test_a_model_that_was_not_inspected_is_not_stepped() -> None:
    with pytest.raises(RuntimeError, match="inspected"):
        stepped(Newton(), np.zeros(3, np.float32), [told("a", 1, 1.0, [0.0] * 3, np.eye(3))])
