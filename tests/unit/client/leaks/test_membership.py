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


def test_the_interval_holds_the_truth() -> None:
    """Two normal distributions one standard deviation apart have an area of Phi(1 / sqrt 2) = .760."""
    rng = np.random.default_rng(3)
    inside = 0
    for seed in range(12):
        found = attack(rng.normal(1, 1, 150), rng.normal(0, 1, 150), seed=seed)
        inside += found.low <= 0.7602 <= found.high
    assert inside >= 9  # of 12 at 95 %; fewer happen with a chance below 1 in 400
    assert found.curve[0] <= found.at_few == found.curve[1] <= found.curve[50] <= found.curve[100] == 1.0
