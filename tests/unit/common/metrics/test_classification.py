from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix

from hansa_common.errors import MessageError
from hansa_common.metrics import ClassificationCounts, num_sums
from hansa_common.metrics.bins import CONFIDENCE_ONE, score_bins
from hansa_common.metrics.counts import MAX_EXAMPLES

Arrays = dict[str, npt.NDArray[np.generic]]
Sample = tuple[npt.NDArray[np.float32], npt.NDArray[np.int64], npt.NDArray[np.float64]]


def _sample(seed: int, examples: int, classes: int, scale: float = 2.0) -> Sample:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, examples)
    logits = rng.normal(0, scale, (examples, classes))
    logits[np.arange(examples), labels] += scale
    exponents = np.exp((logits - logits.max(axis=1, keepdims=True)).astype(np.float32))
    probabilities = exponents / exponents.sum(axis=1, keepdims=True)
    losses = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(examples), labels]
    return probabilities, labels, np.maximum(losses, 0.0)


def _count(sample: Sample, *, histograms: bool = True) -> ClassificationCounts:
    return ClassificationCounts.of(*sample, histograms=histograms)


def test_confusion_is_that_of_scikit_learn() -> None:
    probabilities, labels, losses = _sample(1, 500, 7)
    counts = ClassificationCounts.of(probabilities, labels, losses)
    expected = confusion_matrix(labels, probabilities.argmax(axis=1), labels=range(7))
    assert (counts.confusion == expected).all()
    assert counts.num_examples == 500
    assert counts.loss_sum == pytest.approx(losses.sum(), abs=500 * 2.0**-21)


def test_histograms_hold_each_score_once() -> None:
    probabilities, labels, losses = _sample(2, 300, 4)
    positives, negatives, calibration = ClassificationCounts.of(probabilities, labels, losses).histograms()
    assert (positives.sum(axis=1) == np.bincount(labels, minlength=4)).all()
    assert (positives.sum(axis=1) + negatives.sum(axis=1) == 300).all()
    assert calibration[:, 0].sum() == 300
    assert calibration[:, 1].sum() / CONFIDENCE_ONE == pytest.approx(float(probabilities.max(axis=1).sum()), abs=1e-4)
    assert calibration[:, 2].sum() == (probabilities.argmax(axis=1) == labels).sum()


@settings(max_examples=60, deadline=None)
@given(data=st.data(), histograms=st.booleans(), classes=st.integers(2, 11), examples=st.integers(0, 80))
def test_any_split_into_sites_merges_to_the_pooled_counts_in_any_order(
    data: st.DataObject, histograms: bool, classes: int, examples: int
) -> None:
    sample = _sample(data.draw(st.integers(0, 2**16)), examples, classes, data.draw(st.sampled_from([0.5, 3.0, 30.0])))
    owners = np.array(data.draw(st.lists(st.integers(0, 4), min_size=examples, max_size=examples)), np.int64)
    sites = [
        _count((sample[0][owners == site], sample[1][owners == site], sample[2][owners == site]), histograms=histograms)
        for site in range(5)
    ]
    merged = ClassificationCounts.zero(classes, histograms=histograms)
    for site in data.draw(st.permutations(sites)):
        merged = merged.merge(site)
    pooled = _count(sample, histograms=histograms)
    assert merged == pooled
    first, second, third, *_ = sites
    assert (first + second) + third == first + (second + third)


def test_counts_differ_when_any_part_differs() -> None:
    counts, other = _count(_sample(1, 50, 3)), _count(_sample(2, 50, 3))
    assert counts == _count(_sample(1, 50, 3))
    assert counts != other
    assert counts != _count(_sample(1, 50, 3), histograms=False)
    assert counts != "counts"
    with pytest.raises(TypeError, match="unhashable"):
        hash(counts)


@pytest.mark.parametrize("histograms", [True, False])
def test_unlike_counts_do_not_merge(histograms: bool) -> None:
    counts = ClassificationCounts.zero(3, histograms=histograms)
    with pytest.raises(RuntimeError, match=r"3 classes with.* 4 classes"):
        counts.merge(ClassificationCounts.zero(4, histograms=histograms))
    with pytest.raises(RuntimeError, match=r"with histograms with counts of 3 classes without|without histograms with"):
        counts.merge(ClassificationCounts.zero(3, histograms=not histograms))


def test_histograms_that_were_not_counted_are_a_bug_of_the_caller() -> None:
    with pytest.raises(RuntimeError, match="histograms=True"):
        ClassificationCounts.zero(3, histograms=False).histograms()


def test_merged_sums_cannot_overflow() -> None:
    confusion = np.array([[2**37, 0], [0, 2**37]], np.int64)
    full = ClassificationCounts(confusion=confusion, loss_units=0)
    with pytest.raises(MessageError, match="274,877,906,944 examples"):
        full.merge(full)


def test_a_loss_saturates_and_the_sum_stays_exact() -> None:
    probabilities = np.full((3, 2), 0.5, np.float32)
    losses = np.array([3.4e38, 1.0, 2.0**-20], np.float32)
    counts = ClassificationCounts.of(probabilities, np.zeros(3, np.int64), losses)
    assert counts.loss_sum == 2.0**20 + 1.0 + 2.0**-20


def test_float32_softmax_may_exceed_one_by_rounding() -> None:
    probabilities = np.array([[np.nextafter(np.float32(1), np.float32(2)), 0.0]], np.float32)
    counts = ClassificationCounts.of(probabilities, np.zeros(1, np.int64), np.zeros(1))
    assert ClassificationCounts.from_arrays(counts.to_arrays(), 2) == counts


_BAD_INPUT = {
    "one column": ((4, 1), 0.5, 0, 0.0, "K >= 2"),
    "one dimension": ((4,), 0.5, 0, 0.0, "expected"),
    "nan": ((4, 2), np.nan, 0, 0.0, "NaN or infinite"),
    "infinite": ((4, 2), np.inf, 0, 0.0, "NaN or infinite"),
    "logits": ((4, 2), 1.5, 0, 0.0, "logits"),
    "negative": ((4, 2), -0.1, 0, 0.0, "outside 0..1"),
    "label too large": ((4, 2), 0.5, 2, 0.0, "outside 0..1"),
    "label negative": ((4, 2), 0.5, -1, 0.0, "outside 0..1"),
    "loss nan": ((4, 2), 0.5, 0, np.nan, "NaN or infinite"),
    "loss infinite": ((4, 2), 0.5, 0, np.inf, "NaN or infinite"),
    "loss negative": ((4, 2), 0.5, 0, -0.5, "negative"),
}


@pytest.mark.parametrize(("shape", "probability", "label", "loss", "message"), _BAD_INPUT.values(), ids=_BAD_INPUT)
def test_bad_input_is_refused(
    shape: tuple[int, ...], probability: float, label: int, loss: float, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        ClassificationCounts.of(
            np.full(shape, probability, np.float32), np.full(4, label, np.int64), np.full(4, loss, np.float32)
        )


@pytest.mark.parametrize(("labels", "losses"), [(3, 4), (4, 5)])
def test_lengths_must_agree(labels: int, losses: int) -> None:
    with pytest.raises(ValueError, match="4 rows"):
        ClassificationCounts.of(np.full((4, 2), 0.5, np.float32), np.zeros(labels, np.int64), np.zeros(losses))


def test_labels_must_be_integers() -> None:
    with pytest.raises(ValueError, match="float64"):
        ClassificationCounts.of(np.full((4, 2), 0.5, np.float32), np.zeros(4), np.zeros(4))  # type: ignore[arg-type]


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    examples=st.integers(0, 60),
    classes=st.integers(2, 40),
    scale=st.sampled_from([0.1, 2.0, 40.0]),
    histograms=st.booleans(),
)
def test_arrays_bring_back_the_counts(seed: int, examples: int, classes: int, scale: float, histograms: bool) -> None:
    counts = _count(_sample(seed, examples, classes, scale), histograms=histograms)
    arrays = counts.to_arrays()
    assert all(array.dtype.str == "<i8" for array in arrays.values())
    assert ClassificationCounts.from_arrays(arrays, classes) == counts


def test_a_small_site_sends_a_small_message() -> None:
    arrays = _count(_sample(1, 60, 2)).to_arrays()
    assert sum(array.nbytes for array in arrays.values()) <= 4 * 60 * 16 + 15 * 24 + 40
    arrays = _count(_sample(1, 60, 2), histograms=False).to_arrays()
    assert sum(array.nbytes for array in arrays.values()) == 40


def test_a_sum_of_losses_beyond_int64_saturates_on_the_wire() -> None:
    counts = ClassificationCounts(confusion=np.array([[2**29, 0], [0, 2**29]], np.int64), loss_units=2**69)
    arrays = counts.to_arrays()
    assert arrays["loss"].tolist() == [2**63 - 1]
    assert ClassificationCounts.from_arrays(arrays, 2).loss_units == 2**63 - 1


def _set(name: str, index: tuple[int, ...], value: int) -> Callable[[Arrays], None]:
    def tamper(arrays: Arrays) -> None:
        arrays[name][index] = value

    return tamper


def _add(name: str, index: tuple[int, ...], value: int) -> Callable[[Arrays], None]:
    def tamper(arrays: Arrays) -> None:
        arrays[name][index] = int(arrays[name][index]) + value

    return tamper


def _replace(
    name: str, change: Callable[[npt.NDArray[np.generic]], npt.NDArray[np.generic]]
) -> Callable[[Arrays], None]:
    def tamper(arrays: Arrays) -> None:
        arrays[name] = change(arrays[name])

    return tamper


def _without(name: str) -> Callable[[Arrays], None]:
    def tamper(arrays: Arrays) -> None:
        del arrays[name]

    return tamper


def _move_example_between_classes(arrays: Arrays) -> None:
    rows = arrays["confusion"]
    rows[0, 0], rows[1, 0] = int(rows[0, 0]) - 1, int(rows[1, 0]) + 1


def _double_confidence_of_the_middle_bin(arrays: Arrays) -> None:
    counts, sums, _ = arrays["calibration"][7]
    assert counts > 0
    arrays["calibration"][7, 1] = 2 * sums - 1


def _move_confidence_between_bins(arrays: Arrays) -> None:
    sums = arrays["calibration"]
    first, last = int(sums[-2, 1]), int(sums[-1, 1])
    sums[-2, 1], sums[-1, 1] = last, first


_TAMPERING: dict[str, tuple[Callable[[Arrays], None], str]] = {
    "no arrays": (dict.clear, "other arrays"),
    "array missing": (_without("loss"), "other arrays"),
    "histogram missing": (_without("negatives"), "other arrays"),
    "array unknown": (lambda arrays: arrays.update(extra=arrays["loss"]), "other arrays"),
    "float64": (_replace("confusion", lambda array: array.astype(np.float64)), "'confusion' is <f8"),
    "int32": (_replace("positives", lambda array: array.astype(np.int32)), "'positives' is <i4"),
    "big-endian": (_replace("confusion", lambda array: array.astype(">i8")), "'confusion' is >i8"),
    "unsigned": (_replace("calibration", lambda array: array.astype(np.uint64)), "'calibration' is <u8"),
    "other number of classes": (
        _replace("confusion", lambda array: array[:2, :2]),
        r"shape \(2, 2\); expected \(3, 3\)",
    ),
    "flat": (_replace("confusion", lambda array: array.ravel()), "shape"),
    "two losses": (_replace("loss", lambda array: np.repeat(array, 2)), r"'loss' has the shape \(2,\)"),
    "histogram of triples": (_replace("positives", lambda array: np.repeat(array, 2, axis=1)), "shape"),
    "flat histogram": (_replace("negatives", lambda array: array.ravel()), "shape"),
    "14 calibration bins": (_replace("calibration", lambda array: array[1:]), "shape"),
    "negative confusion": (_set("confusion", (0, 1), -1), "outside"),
    "confusion wraps around": (_replace("confusion", lambda array: np.full_like(array, 2**62)), "outside"),
    "too many examples": (_replace("confusion", lambda array: np.full_like(array, MAX_EXAMPLES)), "allowed are"),
    "confusion of another class": (_move_example_between_classes, "how many examples class 0 has"),
    "negative loss": (_set("loss", (0,), -1), "outside"),
    "impossible loss": (_set("loss", (0,), 2**62), "nats for 200 examples"),
    "negative score count": (_set("positives", (0, 1), -1), "outside"),
    "empty cell listed": (_set("positives", (0, 1), 0), "empty cell"),
    "one score more": (_add("positives", (0, 1), 1), "'positives' and 'confusion' disagree"),
    "one score less": (_replace("negatives", lambda array: array[1:]), "'negatives' and 'confusion' disagree"),
    "negative cell": (_set("positives", (0, 0), -1), "outside"),
    "cell behind the end": (_set("negatives", (-1, 0), 3 * score_bins(3)), "do not ascend within 3 x 32768"),
    "cell twice": (_replace("positives", lambda array: np.repeat(array, 2, axis=0)), "do not ascend"),
    "cells descend": (_replace("positives", lambda array: array[::-1]), "do not ascend"),
    "calibration of more examples": (_add("calibration", (-1, 0), 1), "how many examples there are"),
    "calibration wraps around": (_set("calibration", (0, 0), 2**62), "outside"),
    "negative calibration": (_set("calibration", (0, 2), -1), "outside"),
    "more right than counted": (_add("calibration", (-1, 2), 10_000), "how many examples are right"),
    "one more right than in confusion": (_add("calibration", (-1, 2), -1), "how many examples are right"),
    "confidence above one": (_add("calibration", (-1, 1), 200 * CONFIDENCE_ONE // 2), "sum of confidences"),
    "confidence of an empty bin": (_set("calibration", (0, 1), 1), "sum of confidences"),
    "confidence below its bin": (_set("calibration", (-1, 1), 0), "sum of confidences"),
    "confidence above its bin": (_double_confidence_of_the_middle_bin, "sum of confidences"),
    "confidence of another bin": (_move_confidence_between_bins, "sum of confidences"),
}


@pytest.mark.parametrize(("tamper", "message"), _TAMPERING.values(), ids=_TAMPERING)
def test_tampering_is_refused(tamper: Callable[[Arrays], None], message: str) -> None:
    arrays: Arrays = dict(_count(_sample(5, 200, 3)).to_arrays())
    ClassificationCounts.from_arrays(arrays, 3)
    tamper(arrays)
    with pytest.raises(MessageError, match=message):
        ClassificationCounts.from_arrays(arrays, 3)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_no_change_of_one_value_goes_unnoticed_or_raises_something_else(data: st.DataObject) -> None:
    arrays: Arrays = dict(_count(_sample(6, 30, 3)).to_arrays())
    name = data.draw(st.sampled_from(["confusion", "positives", "negatives", "calibration"]))
    index = data.draw(st.integers(0, arrays[name].size - 1))
    value = data.draw(st.integers(-(2**63), 2**63 - 1))
    before = int(arrays[name].flat[index])
    arrays[name].flat[index] = value
    try:
        parsed = ClassificationCounts.from_arrays(arrays, 3)
    except MessageError:
        return
    assert parsed.num_examples == 30
    moved_cell = name in ("positives", "negatives") and index % 2 == 0
    other_confidence = name == "calibration" and index % 3 == 1
    assert value == before or moved_cell or other_confidence


def test_reading_keeps_no_view_of_the_message() -> None:
    counts = _count(_sample(5, 200, 3))
    arrays = counts.to_arrays()
    parsed = ClassificationCounts.from_arrays(arrays, 3)
    for array in arrays.values():
        array[...] = 0
    assert parsed == counts


@pytest.mark.parametrize("histograms", [True, False])
def test_sums_add_up_to_the_merged_counts(histograms: bool) -> None:
    sites = [_count(_sample(seed, 40, 3), histograms=histograms) for seed in range(3)]
    total = sum((site.to_sums() for site in sites), np.zeros(num_sums(3, histograms=histograms), np.uint64))
    assert ClassificationCounts.from_sums(total, 3, histograms=histograms) == sites[0] + sites[1] + sites[2]


@pytest.mark.parametrize(
    ("place", "value"), [(0, 2**63), (0, 2**31), (9, 2**62), (10, 5)], ids=["huge", "many", "loss", "histogram"]
)
def test_a_sum_that_no_counts_add_up_to_is_refused(place: int, value: int) -> None:
    sums = _count(_sample(1, 40, 3)).to_sums()
    sums[place] += np.uint64(value)
    with pytest.raises(MessageError):
        ClassificationCounts.from_sums(sums, 3, histograms=True)


def test_a_sum_of_another_length_is_refused() -> None:
    with pytest.raises(MessageError, match="has 9 values"):
        ClassificationCounts.from_sums(np.zeros(9, np.uint64), 3, histograms=False)
