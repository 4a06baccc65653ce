import numpy as np
import pytest

from hansa_client.training.private_counts import noised_counts
from hansa_client.training.secure_random import SecureRandomness
from hansa_common.metrics import ClassificationCounts


def counted(classes: int = 30, value: int = 1_000) -> ClassificationCounts:
    probabilities = np.full((1, classes), 1 / classes)
    counts = ClassificationCounts.of(probabilities, np.array([0]), np.array([2.0]))
    assert counts.loss_units
    return ClassificationCounts(
        confusion=np.full((classes, classes), value),
        loss_units=counts.loss_units,
        positives=counts.positives,
        negatives=counts.negatives,
        calibration=counts.calibration,
    )


def test_no_loss_and_no_histogram_leaves() -> None:
    noised = noised_counts(counted(), 3.0, SecureRandomness())
    assert noised.loss_units == 0
    assert not noised.has_histograms
    assert set(noised.to_arrays()) == {"confusion", "loss"}


@pytest.mark.parametrize("multiplier", [2.0, 40.0])
def test_each_cell_gets_noise_of_the_plan_s_deviation(multiplier: float) -> None:
    source = SecureRandomness()
    noise = np.stack([noised_counts(counted(), multiplier, source).confusion - 1_000 for _ in range(20)])
    draws = noise.size
    assert abs(noise.mean()) <= 5.0 * multiplier / np.sqrt(draws)
    variance = multiplier**2 + 1 / 12  # of rounding
    assert abs(noise.var() / variance - 1.0) <= 5.0 * np.sqrt(2.0 / draws)


def test_cells_are_cut_off_below_zero_after_the_noise() -> None:
    noised = noised_counts(counted(value=0), 10.0, SecureRandomness()).confusion
    assert noised.min() == 0
    assert 0.3 < (noised > 0).mean() < 0.7  # cut off before, half of the noise would have left
    ClassificationCounts.from_arrays(noised_counts(counted(), 10.0, SecureRandomness()).to_arrays(), 30)
