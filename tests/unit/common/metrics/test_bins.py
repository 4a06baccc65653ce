import numpy as np
import pytest

from hansa_common.metrics.bins import (
    CALIBRATION_BINS,
    CONFIDENCE_ONE,
    MAX_CELLS,
    confidence_bin,
    fixed_confidence,
    score_bin,
    score_bins,
    score_edges,
)


def test_the_bins_are_those_of_protocol_1() -> None:
    assert [score_bins(classes) for classes in (2, 10, 16, 17, 100, 1_000, 10_000)] == [
        32_768,
        32_768,
        32_768,
        16_384,
        4_096,
        512,
        512,
    ]
    edges = score_edges(32_768)
    assert (edges[0], edges[16_384], edges[-1]) == pytest.approx(
        (6.97792219e-46, 0.11686627392, 0.99999997479), rel=1e-8
    )
    assert CALIBRATION_BINS == 15


def test_a_histogram_is_bounded() -> None:
    assert all(score_bins(classes) * classes <= MAX_CELLS for classes in range(2, 1_000))


def test_bins_are_equally_spaced_in_the_stretched_logit() -> None:
    bins = 4_096
    probabilities = np.logspace(-40, -0.001, 5_000)
    stretched = np.arcsinh((np.log(probabilities) - np.log1p(-probabilities)) / 2)
    low, high = np.arcsinh(-104 / 2), np.arcsinh(17.5 / 2)
    expected = np.floor((stretched - low) / (high - low) * bins)
    assert np.abs(score_bin(probabilities, bins) - expected).max() <= 1  # at an edge, the last bit decides
    assert (score_bin(probabilities, bins) == expected).mean() > 0.999


def test_every_decade_of_saturated_float32_scores_has_a_bin_of_its_own() -> None:
    one, tiny = np.float32(1), np.finfo(np.float32).smallest_subnormal
    below_one = [1 - 2.0**-exponent for exponent in range(1, 25)]
    scores = np.array([0, tiny, *10.0 ** np.arange(-44, 0), *below_one, one], np.float32)
    bins = score_bin(scores, 32_768)
    assert (np.diff(bins) > 0).all()
    assert (bins[0], bins[-1]) == (0, 32_767)


def test_calibration_bins_are_open_on_the_left() -> None:
    edges = np.arange(1, CALIBRATION_BINS + 1) * CONFIDENCE_ONE // CALIBRATION_BINS
    assert confidence_bin(edges).tolist() == list(range(CALIBRATION_BINS))
    assert confidence_bin(edges[:-1] + 1).tolist() == list(range(1, CALIBRATION_BINS))
    assert confidence_bin(np.array([0, 1, CONFIDENCE_ONE])).tolist() == [0, 0, 14]


def test_a_float32_confidence_above_one_half_is_counted_exactly() -> None:
    confidences = np.random.default_rng(1).uniform(0.5, 1.0, 1_000).astype(np.float32)
    assert (fixed_confidence(confidences) / CONFIDENCE_ONE == confidences).all()
