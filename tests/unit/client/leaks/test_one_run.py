import math

import numpy as np
import numpy.typing as npt
import pytest
from scipy.stats import binom

from hansa_client.leaks.one_run import audit, chance, lower_bound


def published(m: int, r: int, v: int, epsilon: float, delta: float) -> float:
    """The listing of Steinke, Nasr, Jagielski (2023), appendix D, with SciPy's binomial distribution."""
    q = 1 / (1 + math.exp(-epsilon))
    beta = binom.sf(v - 1, r, q)
    alpha, total = 0.0, 0.0
    for i in range(1, v + 1):
        total = total + binom.pmf(v - i, r, q)
        if total > i * alpha:
            alpha = total / i
    return float(min(beta + alpha * delta * 2 * m, 1))


def randomised_response(
    epsilon: float, canaries: int, rng: np.random.Generator
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float64]]:
    """Warner (1965): each coin is told as it is with probability e^epsilon / (1 + e^epsilon)."""
    coins = rng.random(canaries) < 0.5
    told = coins ^ (rng.random(canaries) >= 1 / (1 + math.exp(-epsilon)))
    return coins, told.astype(np.float64)


@pytest.mark.parametrize("epsilon", [0.0, 0.3, 1.0, 4.0])
@pytest.mark.parametrize(("m", "r", "v"), [(100, 50, 40), (1000, 100, 95), (40, 40, 21), (10, 10, 10), (8, 4, 0)])
@pytest.mark.parametrize("delta", [0.0, 1e-5, 1e-2])
def test_the_chance_is_that_of_the_published_listing(m: int, r: int, v: int, epsilon: float, delta: float) -> None:
    found = chance(epsilon, delta, canaries=m, guesses=r, correct=v)
    assert found == pytest.approx(published(m, r, v, epsilon, delta), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("epsilon", [0.5, 1.0, 2.0, 4.0])
def test_the_bound_is_not_above_an_epsilon_that_is_known(epsilon: float) -> None:
    """Of 60 runs at 95 % confidence about 3 may be above; more than 9 happen with a chance below 1 in 500."""
    rng = np.random.default_rng(int(10 * epsilon))
    bounds = [audit(*randomised_response(epsilon, 200, rng)).epsilon for _ in range(60)]
    assert sum(bound > epsilon for bound in bounds) <= 9
    assert np.median(bounds) > 0.4 * epsilon - 0.2  # and it says something


def test_without_protection_the_bound_is_large() -> None:
    """All guesses right: e^epsilon / (1 + e^epsilon) to the power of r is the error that is left."""
    coins = np.random.default_rng(1).random(400) < 0.5
    found = audit(coins, coins.astype(np.float64) + np.linspace(0, 0.1, 400), shares=(0.5,))
    assert (found.guesses, found.correct) == (200, 200)
    expected = math.log(0.05 ** (1 / 200) / (1 - 0.05 ** (1 / 200)))
    assert found.epsilon == pytest.approx(expected, abs=1e-3)
    assert found.epsilon > 4


def test_scores_that_know_nothing_give_no_bound() -> None:
    rng = np.random.default_rng(4)
    bounds = [audit(rng.random(200) < 0.5, rng.random(200)).epsilon for _ in range(40)]
    assert sum(bound > 0 for bound in bounds) <= 6
    assert audit(rng.random(200) < 0.5, np.zeros(200)).epsilon < 0.5


def test_delta_costs_epsilon() -> None:
    bounds = [lower_bound(canaries=500, guesses=100, correct=98, delta=delta, error=0.05) for delta in (0, 1e-5, 1e-3)]
    assert bounds[0] > bounds[1] > bounds[2] >= 0


def test_trying_several_numbers_of_guesses_has_its_price() -> None:
    coins = np.arange(100) % 2 == 0
    alone = audit(coins, coins.astype(np.float64), shares=(1.0,)).epsilon
    assert audit(coins, coins.astype(np.float64), shares=(1.0, 0.01)).epsilon < alone
