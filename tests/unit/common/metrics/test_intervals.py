import numpy as np
import pytest
from scipy import stats

from hansa_common.metrics.bins import score_bin
from hansa_common.metrics.intervals import delong_interval, wilson_interval


@pytest.mark.parametrize(("hits", "trials"), [(0, 10), (3, 10), (10, 10), (812, 1_000)])
def test_the_interval_of_a_share_is_wilson_s(hits: int, trials: int) -> None:
    expected = stats.binomtest(hits, trials).proportion_ci(method="wilson")
    assert wilson_interval(hits, trials) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert wilson_interval(0, 0) is None


def test_the_interval_of_an_area_is_delong_s() -> None:
    """By the paper: the variances of each example's placement among the others, one by one."""
    rng = np.random.default_rng(0)
    positive = 1 / (1 + np.exp(-rng.normal(1.0, 1.0, 60)))
    negative = 1 / (1 + np.exp(-rng.normal(0.0, 1.0, 140)))
    wins = (positive[:, None] > negative[None, :]) + 0.5 * (positive[:, None] == negative[None, :])
    deviation = np.sqrt(wins.mean(axis=1).var(ddof=1) / 60 + wins.mean(axis=0).var(ddof=1) / 140)
    bins = 1 << 15
    found = delong_interval(*(np.bincount(score_bin(part, bins), minlength=bins) for part in (positive, negative)))
    expected = (wins.mean() - 1.959964 * deviation, wins.mean() + 1.959964 * deviation)
    assert found == pytest.approx(expected, abs=1e-3)
    assert delong_interval(np.array([0, 1]), np.array([5, 5])) is None
