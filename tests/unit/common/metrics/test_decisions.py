import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hansa_common.errors import MessageError
from hansa_common.metrics import ClassificationCounts, ClassificationKind
from hansa_common.metrics.decisions import (
    HALF,
    THRESHOLDS,
    cheapest_threshold,
    decide_at,
    decision_histograms,
    fairness,
    without_small_groups,
)

KIND = ClassificationKind(classes=2, rows=4)
NAMES = ("a", "b", "c")


def sample(
    seed: int, examples: int = 400
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Return scores, labels and who is in which of three groups; group c has few people."""
    rng = np.random.default_rng(seed)
    labels = (rng.random(examples) < 0.3).astype(np.int64)
    group = rng.choice(4, examples, p=[0.5, 0.35, 0.03, 0.12])
    logits = rng.normal(2.0 * labels - 1.0 + 0.5 * (group == 1), 1.0)
    return 1 / (1 + np.exp(-logits)), labels, group[:, None] == np.arange(3)


def counted(seed: int, part: slice = slice(None)) -> ClassificationCounts:
    scores, labels, members = sample(seed)
    scores, labels, members = scores[part], labels[part], members[part]
    both = np.stack((1 - scores, scores), axis=1)
    return ClassificationCounts.of(both, labels, np.zeros(len(labels)), members=members)


def histograms(seed: int) -> npt.NDArray[np.int64]:
    return decision_histograms(*sample(seed))


@pytest.mark.parametrize("threshold", [0, 200, HALF, 300, 512])
def test_gaps_are_those_of_their_definitions(threshold: int) -> None:
    """The definitions of fairlearn's documentation, written out: rates of each group, and max minus min."""
    scores, labels, members = sample(1)
    taken = scores >= THRESHOLDS[threshold]
    found = fairness(histograms(1), 1, NAMES, threshold, minimum=1)
    selection, hits, alarms, right = {}, {}, {}, {}
    for name, there in zip(NAMES, members.T, strict=True):
        selection[name] = taken[there].mean()
        hits[name] = taken[there & (labels == 1)].mean()
        alarms[name] = taken[there & (labels == 0)].mean()
        right[name] = (taken == (labels == 1))[there].mean()
        group = found.groups[name]
        assert group is not None
        assert group.num_examples == there.sum()
        assert group.selection_rate == pytest.approx(selection[name])
        assert group.true_positive_rate == pytest.approx(hits[name])
        assert group.false_positive_rate == pytest.approx(alarms[name])
        assert group.accuracy == pytest.approx(right[name])
    assert found.parity_gap == pytest.approx(max(selection.values()) - min(selection.values()))
    gaps = [max(rates.values()) - min(rates.values()) for rates in (hits, alarms)]
    assert found.odds_gap == pytest.approx(max(gaps))
    assert right[found.worst or ""] == pytest.approx(min(right.values()))


def test_a_small_group_is_left_out_of_everything() -> None:
    whole, few = (fairness(histograms(1), 1, NAMES, HALF, minimum=minimum) for minimum in (1, 20))
    assert whole.groups["c"] is not None
    assert few.groups["c"] is None
    assert few.groups["a"] == whole.groups["a"]
    alone = without_small_groups(histograms(1), 20)
    assert not alone[6:].any()
    np.testing.assert_array_equal(alone[:6], histograms(1)[:6])
    none = without_small_groups(histograms(1), 10**6)
    np.testing.assert_array_equal(none[:2], histograms(1)[:2])
    assert not none[2:].any()
    nobody = fairness(none, 1, NAMES, HALF, minimum=1)
    assert (nobody.parity_gap, nobody.odds_gap, nobody.worst) == (None, None, None)


@pytest.mark.parametrize(("missed", "alarmed"), [(1.0, 1.0), (10.0, 1.0), (1.0, 25.0)])
def test_no_threshold_costs_less_than_the_chosen_one(missed: float, alarmed: float) -> None:
    scores, labels, _ = sample(2)
    chosen = cheapest_threshold(histograms(2), false_negative=missed, false_positive=alarmed)
    costs = [
        missed * ((scores < edge) & (labels == 1)).sum() + alarmed * ((scores >= edge) & (labels == 0)).sum()
        for edge in THRESHOLDS
    ]
    assert costs[chosen] == min(costs)
    decided = decide_at(histograms(2), 0, chosen)
    assert decided.cost(false_negative=missed, false_positive=alarmed) == min(costs)
    assert decided.num_examples == len(labels)


def test_the_middle_threshold_is_one_half() -> None:
    assert THRESHOLDS[HALF] == 0.5
    one = decision_histograms(np.array([0.5]), np.array([1]), np.zeros((1, 0), np.bool_))
    assert decide_at(one, 0, HALF).true_positives == 1


@settings(max_examples=4, deadline=None, derandomize=True)
@given(cuts=st.lists(st.integers(0, 400), min_size=2, max_size=2).map(sorted))
def test_sites_add_up_to_all_in_the_open_and_under_masks(cuts: list[int]) -> None:
    parts = [counted(3, part) for part in (slice(0, cuts[0]), slice(cuts[0], cuts[1]), slice(cuts[1], None))]
    total = KIND.zero(histograms=True)
    sums = np.zeros(KIND.num_sums(histograms=True), np.uint64)
    for part in parts:
        assert KIND.from_arrays(part.to_arrays()) == part
        total, sums = total + part, sums + part.to_sums()
    assert total == counted(3)
    assert KIND.from_sums(sums, histograms=True) == counted(3)


def test_decisions_that_contradict_the_confusion_are_refused() -> None:
    good = counted(4).to_arrays()
    fewer, more = good["decisions"].copy(), good["decisions"].copy()
    fewer[0, 1] += 1
    more[-1, 1] += 500
    for lie in (fewer, more):
        with pytest.raises(MessageError):
            KIND.from_arrays(good | {"decisions": lie})
    with pytest.raises(MessageError):
        KIND.from_arrays({name: array for name, array in good.items() if name != "decisions"})
    with pytest.raises(MessageError):
        ClassificationKind(classes=2).from_arrays(good)
