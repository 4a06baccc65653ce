import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from hansa_common.errors import MessageError
from hansa_common.metrics import ReconstructionCounts, ReconstructionKind, scores
from hansa_common.metrics.reconstruction import ERROR_BINS, error_bin

KIND = ReconstructionKind(labelled=True)
Errors = np.ndarray[tuple[int], np.dtype[np.float64]]
Labels = np.ndarray[tuple[int], np.dtype[np.int64]]


def sample(seed: int, examples: int) -> tuple[Errors, Labels]:
    rng = np.random.default_rng(seed)
    anomalies = (rng.random(examples) < 0.2).astype(np.int64)
    return rng.lognormal(anomalies * 1.0, 0.8), anomalies


def counted(errors: Errors, anomalies: Labels, *, histograms: bool = True) -> ReconstructionCounts:
    return ReconstructionCounts.of(errors, anomalies, labelled=True, histograms=histograms)


def test_federated_figures_are_the_pooled_ones_of_scikit_learn() -> None:
    errors, anomalies = sample(1, 3_000)
    total = KIND.zero(histograms=True)
    for part in np.array_split(np.arange(3_000), 7):
        total = total + counted(errors[part], anomalies[part])
    found = scores(total)
    assert found.roc_auc == pytest.approx(roc_auc_score(anomalies, errors), abs=1e-4)
    assert found.average_precision == pytest.approx(average_precision_score(anomalies, errors), abs=1e-3)
    assert found.reconstruction_error == pytest.approx(errors[anomalies == 0].mean(), abs=1e-6)
    assert found.anomaly_error == pytest.approx(errors[anomalies == 1].mean(), abs=1e-6)
    assert "roc_auc" in found.intervals


@settings(max_examples=15, deadline=None, derandomize=True)
@given(seed=st.integers(0, 99), examples=st.integers(0, 50), histograms=st.booleans())
def test_arrays_and_sums_bring_back_the_counts(seed: int, examples: int, histograms: bool) -> None:
    parts = [counted(*sample(seed + site, examples), histograms=histograms) for site in range(2)]
    assert all(KIND.from_arrays(part.to_arrays()) == part for part in parts)
    sums = parts[0].to_sums() + parts[1].to_sums()
    assert KIND.from_sums(sums, histograms=histograms) == parts[0] + parts[1]
    assert len(sums) == KIND.num_sums(histograms=histograms)


def test_bins_rise_with_the_error_and_hold_any() -> None:
    errors = np.array([0.0, 1e-30, 1e-6, 1.0, 1.001, 1e30])
    bins = error_bin(errors)
    assert (np.diff(bins[1:]) > 0).all()
    assert (bins[0], bins[-1]) == (0, ERROR_BINS - 1)


@pytest.mark.parametrize(
    ("name", "index", "value"),
    [
        ("sums", (0, 0), 10**6),
        ("sums", (0, 1), 0),
        ("sums", (1, 0), 2**62),
        ("errors", (0, 1), 99),
        ("sums", (0, 0), -1),
    ],
)
def test_counts_that_contradict_each_other_are_refused(name: str, index: tuple[int, int], value: int) -> None:
    arrays = {key: array.copy() for key, array in counted(*sample(2, 50)).to_arrays().items()}
    arrays[name][index] = value
    with pytest.raises(MessageError):
        KIND.from_arrays(arrays)


def test_nobody_claims_anomalies_where_the_contract_tells_none() -> None:
    with pytest.raises(MessageError):
        ReconstructionKind(labelled=False).from_arrays(counted(*sample(3, 50), histograms=False).to_arrays())
    plain = ReconstructionCounts.of(np.ones(3), np.zeros(3, np.int64), labelled=False, histograms=True)
    assert not plain.has_histograms
    assert scores(plain).roc_auc is None
