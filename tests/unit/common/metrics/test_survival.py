import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hansa_common.errors import MessageError
from hansa_common.metrics import MomentsKind, SurvivalCounts, scores

KIND = MomentsKind(empty=SurvivalCounts())


def people(
    seed: int, number: int, *, ties: bool = True
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Return hazards, times and events, with ties in both where wanted."""
    rng = np.random.default_rng(seed)
    hazards, times = rng.normal(size=number), rng.exponential(size=number)
    times = times * np.exp(-hazards)
    if ties:
        hazards, times = np.round(hazards, 1), np.round(times, 1)
    return hazards, times, rng.integers(0, 2, number)


def counted(
    hazards: npt.NDArray[np.float64], times: npt.NDArray[np.float64], events: npt.NDArray[np.int64]
) -> SurvivalCounts:
    return SurvivalCounts.of(hazards, times, events, np.zeros(len(times)))


def by_definition(
    hazards: npt.NDArray[np.float64], times: npt.NDArray[np.float64], events: npt.NDArray[np.int64]
) -> tuple[int, int, int]:
    """Compare each pair by the rules that lifelines and scikit-survival document."""
    pairs = concordant = tied = 0
    for i in range(len(times)):
        for j in range(i + 1, len(times)):
            first, second = (i, j) if (times[i], 1 - events[i]) <= (times[j], 1 - events[j]) else (j, i)
            if not events[first] or (times[first] == times[second] and events[second]):
                continue
            pairs += 1
            concordant += bool(hazards[first] > hazards[second])
            tied += bool(hazards[first] == hazards[second])
    return pairs, concordant, tied


@settings(max_examples=40, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10_000), number=st.integers(0, 40), ties=st.booleans())
def test_pairs_are_those_of_the_definition(seed: int, number: int, ties: bool) -> None:
    found = counted(*people(seed, number, ties=ties))
    assert (found.pairs, found.concordant, found.tied) == by_definition(*people(seed, number, ties=ties))


def test_two_events_at_one_time_are_not_compared_and_an_event_comes_before_one_who_was_watched_so_long() -> None:
    times, hazards = np.array([1.0, 1.0]), np.array([2.0, 1.0])
    assert counted(hazards, times, np.array([1, 1])).pairs == 0
    both = counted(hazards, times, np.array([1, 0]))
    assert (both.pairs, both.concordant) == (1, 1)
    assert counted(hazards, times, np.array([0, 0])).pairs == 0


def test_many_people_are_looked_at_in_parts_with_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = counted(*people(5, 150))
    monkeypatch.setattr("hansa_common.metrics.survival._ROWS", 1_000)
    assert counted(*people(5, 150)) == whole


def test_the_index_over_sites_is_that_of_all_pairs_within_a_site() -> None:
    sites = [people(seed, 30 + seed) for seed in range(4)]
    total = KIND.zero(histograms=False)
    sums = np.zeros(KIND.num_sums(histograms=False), np.uint64)
    for site in sites:
        part = counted(*site)
        assert KIND.from_arrays(part.to_arrays()) == part
        total, sums = total + part, sums + part.to_sums()
    assert KIND.from_sums(sums, histograms=False) == total
    pairs, concordant, tied = np.sum([by_definition(*site) for site in sites], axis=0)
    found = scores(total)
    assert found.c_index == pytest.approx((concordant + tied / 2) / pairs, abs=1e-15)
    assert found.events == sum(int(site[2].sum()) for site in sites)


@pytest.mark.parametrize(
    "changes",
    [
        {"events": 99},
        {"concordant": 10**6},
        {"pairs": 10**6},
        {"tied": 10**6},
        {"own_products": 0, "own_pairs_squared": 0},
        {"own_products": 10**9},
        {"own_scores_squared": 0},
        {"loss_units": 1 << 60},
        {"num_examples": 0},
    ],
)
def test_pairs_that_no_people_have_are_refused(changes: dict[str, int]) -> None:
    good = counted(*people(1, 50))
    values = {name: getattr(good, name) for name in SurvivalCounts.names()}
    with pytest.raises(MessageError):
        KIND.from_arrays(SurvivalCounts(**(values | changes)).to_arrays())


def test_the_interval_covers_what_is_true_in_95_of_100_studies() -> None:
    true = scores(counted(*people(999, 4_000, ties=False))).c_index
    assert true is not None
    intervals = [scores(counted(*people(seed, 120, ties=False))).intervals["c_index"] for seed in range(300)]
    inside = sum(low < true < high for low, high in intervals)
    assert 0.90 < inside / 300 < 0.98


def test_the_interval_is_that_of_the_jackknife() -> None:
    hazards, times, events = people(7, 200)
    found = scores(counted(hazards, times, events))
    without = []
    for person in range(200):
        rest = np.arange(200) != person
        without.append(scores(counted(hazards[rest], times[rest], events[rest])).c_index)
    deviation = np.sqrt(199 / 200 * np.sum((np.array(without) - np.mean(np.array(without, dtype=float))) ** 2))
    low, high = found.intervals["c_index"]
    assert (high - low) / 2 == pytest.approx(1.96 * deviation, rel=0.03)
