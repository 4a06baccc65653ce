import numpy as np
import pytest
from sklearn.metrics import roc_auc_score, roc_curve

from hansa_client.leaks.membership import area, attack, found_at


def test_the_area_is_scikit_learns() -> None:
    rng = np.random.default_rng(1)
    members, others = (
        rng.integers(low, 20, count).astype(np.float64) for low, count in ((2, 60), (0, 45))
    )  # with ties
    truth = np.r_[np.ones(60), np.zeros(45)]
    assert area(members, others) == pytest.approx(roc_auc_score(truth, np.r_[members, others]))


def test_the_rate_at_few_false_alarms_is_the_curves() -> None:
    rng = np.random.default_rng(2)
    members, others = rng.normal(1, 1, 500), rng.normal(0, 1, 400)
    false, true, _ = roc_curve(np.r_[np.ones(500), np.zeros(400)], np.r_[members, others], drop_intermediate=False)
    for share in (0.0, 0.01, 0.1, 0.5):
        assert found_at(members, others, share) == pytest.approx(true[false <= share + 1e-12].max())
    assert found_at(members, others, 1.0) == 1.0


def test_equal_scores_tell_nothing() -> None:
    assert area(np.zeros(5), np.zeros(7)) == 0.5
    assert found_at(np.zeros(5), np.zeros(7), 0.01) == 0.0


def test_the_interval_is_as_wide_as_the_variance_of_the_area_asks_for() -> None:
    """Oracle: DeLong, DeLong and Clarke-Pearson, Biometrics 44, 1988, for two samples of normal distributions."""
    rng = np.random.default_rng(3)
    members, others = rng.normal(1, 1, 200), rng.normal(0, 1, 150)
    above = members[:, None] > others
    deviation = np.sqrt(above.mean(axis=1).var(ddof=1) / 200 + above.mean(axis=0).var(ddof=1) / 150)
    found = attack(members, others, seed=1)
    assert (found.high - found.low) / (2 * 1.96 * deviation) == pytest.approx(1.0, abs=0.1)
    assert (found.high + found.low) / 2 == pytest.approx(found.auc, abs=0.2 * deviation)
    assert found.curve[0] <= found.at_few == found.curve[1] <= found.curve[50] <= found.curve[100] == 1.0
