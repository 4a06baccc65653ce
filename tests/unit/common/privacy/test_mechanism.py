import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hansa_common.errors import PrivacyError
from hansa_common.parameters import Vector, l2_norm
from hansa_common.privacy import (
    AdaptiveClipping,
    DistributedMechanism,
    Gaussian,
    Keystream,
    Relation,
    ServerMechanism,
    Unit,
    epsilon_pld,
)
from hansa_common.privacy import mechanism as mechanism_module

KEY = bytes(range(32))
P = 20_000


def server(**changes: object) -> ServerMechanism:
    values: dict[str, object] = {"bound": 0.7, "noise_multiplier": 2.0, "dimension": P}
    return ServerMechanism(**(values | changes))  # type: ignore[arg-type]


def distributed(**changes: object) -> DistributedMechanism:
    values: dict[str, object] = {
        "bound": 1.5,
        "coordinate_range": 0.1,
        "scale": 10_000.0,
        "noise_multiplier": 2.0,
        "dimension": P,
        "sites": 10,
        "honest": 4,
    }
    return DistributedMechanism(**(values | changes))  # type: ignore[arg-type]


def update(size: int, seed: int, norm: float) -> Vector:
    values = np.random.default_rng(seed).normal(size=size)
    return (values * norm / np.linalg.norm(values)).astype(np.float32)


def test_the_server_s_noise_is_added_to_the_sum_of_clipped_updates() -> None:
    mechanism = server()
    total = np.zeros(P, dtype=np.int64)
    clipped = [mechanism.constrain_sensitivity(update(P, seed, norm)) for seed, norm in enumerate((0.1, 0.7, 50.0))]
    for vector in clipped:
        total += mechanism.steps(vector)
    exact = sum(vector.astype(np.float64) for vector in clipped)
    assert np.abs(total * mechanism.grid - exact).max() <= 1.5 * mechanism.grid
    noisy = total.copy()
    mechanism.add_noise(noisy, Keystream(KEY))
    noise = (noisy - total) * mechanism.grid
    assert noise.std() == pytest.approx(2.0 * 0.7, rel=0.02)
    assert mechanism.deviation == pytest.approx(1.4, rel=1e-4)
    assert abs(noise.mean()) < 5 * 1.4 / math.sqrt(P)
    assert mechanism.mean(noisy, sites=3) == pytest.approx((exact + noise) / 3, rel=1e-5, abs=1e-8)


def test_noise_in_the_mean_grows_when_sites_are_missing() -> None:
    """Divided by the planned ten, three sites would share a third of the noise they need."""
    mechanism, deviations = server(), {}
    for sites in (3, 10):
        total = np.zeros(P, dtype=np.int64)
        mechanism.add_noise(total, Keystream(KEY))
        deviations[sites] = float(mechanism.mean(total, sites=sites).std())
    assert deviations[3] == pytest.approx(1.4 / 3, rel=0.02)
    assert deviations[3] / deviations[10] == pytest.approx(10 / 3, rel=1e-5)


@settings(max_examples=60, derandomize=True, deadline=None)
@given(
    st.floats(1e-20, 1e20),
    st.lists(st.floats(-1.0, 1.0, width=32), min_size=1, max_size=8),
    st.lists(st.floats(-1.0, 1.0, width=32), min_size=8, max_size=8),
)
def test_a_neighbouring_sum_is_never_further_away_than_the_sensitivity(
    bound: float, one: list[float], other: list[float]
) -> None:
    """Actual neighbouring data sets: without a unit, and with it replaced, on the grid that noise is added to."""
    size = len(one)
    for relation in Relation:
        mechanism = server(bound=bound, dimension=size, relation=relation)
        sums = []
        for values in (one, other[:size]):
            total = np.zeros(size, dtype=np.int64)
            with np.errstate(over="ignore"):
                vector = np.array(values, dtype=np.float32) * np.float32(min(10 * bound, 1e37))
            total += mechanism.steps(mechanism.constrain_sensitivity(vector))
            sums.append([int(value) for value in total])
        removed = math.sqrt(sum(value**2 for value in sums[0]))
        replaced = math.sqrt(sum((a - b) ** 2 for a, b in zip(*sums, strict=True)))
        assert (removed if relation is Relation.ADD_OR_REMOVE_ONE else replaced) <= mechanism.sensitivity


def test_clipping_comes_before_averaging() -> None:
    """A mean of a long and a short update, clipped afterwards, would depend on the long one's direction alone."""
    mechanism = server(bound=1.0, dimension=2)
    total = np.zeros(2, dtype=np.int64)
    for vector in ([1000.0, 0.0], [0.0, 1.0]):
        total += mechanism.steps(mechanism.constrain_sensitivity(np.array(vector, dtype=np.float32)))
    assert mechanism.mean(total, sites=2).tolist() == [0.5, 0.5]


def test_its_events_are_what_accounting_takes() -> None:
    assert server().event(count=50) == Gaussian(unit=Unit.SITE, noise_multiplier=2.0, count=50)
    replaced = server(relation=Relation.REPLACE_ONE)
    assert replaced.deviation == pytest.approx(2 * server().deviation)
    assert replaced.event().relation is Relation.REPLACE_ONE
    assert epsilon_pld([server(noise_multiplier=4.0).event(count=50)], 1e-5) == pytest.approx(8.596, abs=5e-4)
    event = distributed().event(count=3)
    assert (event.shares, event.dimension, event.count, event.unit) == (4, P, 3, Unit.SITE)
    assert event.sensitivity / (2 * event.share_deviation) == pytest.approx(1 / 2.0)


def test_the_distributed_mechanism_decodes_to_the_noisy_mean() -> None:
    mechanism = distributed(coordinate_range=2.0)
    total, exact = np.zeros(P, dtype=np.int64), np.zeros(P)
    for seed in range(4):
        delta = update(P, seed, 1.0 + seed)
        rounded = mechanism.constrain_sensitivity(delta, Keystream())
        exact += delta.astype(np.float64) * min(1.0, 1.5 / l2_norm(delta))
        mechanism.add_noise(rounded, Keystream())
        total += rounded
    error = mechanism.mean(total, sites=4).astype(np.float64) * 4 - exact
    expected = 2.0 * mechanism.sensitivity / mechanism.scale
    assert error.std() == pytest.approx(expected, rel=0.03)
    assert abs(error.mean()) < 5 * expected / math.sqrt(P)


def test_honest_survivors_alone_make_up_the_whole_noise() -> None:
    for sites, honest in ((10, 4), (100, 34), (4, 2)):
        mechanism = distributed(sites=sites, honest=honest)
        assert honest * mechanism.share_deviation**2 == pytest.approx((2.0 * mechanism.sensitivity) ** 2)


@settings(max_examples=60, derandomize=True, deadline=None)
@given(st.lists(st.floats(-(2.0**99), 2.0**99, width=32), min_size=1, max_size=30), st.binary(min_size=32, max_size=32))
def test_rounding_never_exceeds_the_bound_it_is_accounted_with(values: list[float], key: bytes) -> None:
    mechanism = distributed(dimension=len(values), scale=500.0, noise_multiplier=1.0, coordinate_range=2.0)
    rounded = mechanism.constrain_sensitivity(np.array(values, dtype=np.float32), Keystream(key))
    assert sum(int(value) ** 2 for value in rounded) <= mechanism.rounded_bound**2
    assert max(abs(int(value)) for value in rounded) <= mechanism.largest


def test_the_bound_after_rounding_is_the_paper_s() -> None:
    mechanism = distributed(dimension=10_000_000, scale=5_000.0, bound=1.0)
    scaled, root = 5_000.0, math.sqrt(10_000_000)
    assert mechanism.rounded_bound == pytest.approx(math.sqrt(scaled**2 + 10_000_000 / 4 + scaled + root / 2))
    assert mechanism.inflation == pytest.approx(0.0489, abs=1e-4)


def test_rounding_is_unbiased() -> None:
    mechanism = distributed(dimension=P, scale=1_000.0, bound=1.0)
    delta = np.full(P, 0.0003, dtype=np.float32)  # a third of a step
    rounded = mechanism.constrain_sensitivity(delta, Keystream(KEY))
    assert set(rounded.tolist()) == {0, 1}
    assert rounded.mean() == pytest.approx(0.3, abs=5 * math.sqrt(0.21 / P))


def test_a_rounding_that_never_fits_is_cut_towards_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hansa_common.privacy.mechanism._TRIES", 0)
    rounded = distributed(dimension=2).constrain_sensitivity(np.array([0.00019, -0.00019], np.float32), Keystream())
    assert rounded.tolist() == [1, -1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scale": 100.0}, r"rounding makes the sensitivity 1[0-9]\.\d% larger"),
        ({"ring_bits": 16}, "16 bits"),
        ({"scale": 1e8}, "do not fit"),
        ({"noise_multiplier": 1e5}, "do not fit"),
        ({"honest": 0}, "0 honest of 10"),
        ({"honest": 11}, "11 honest of 10"),
        ({"bound": math.nan}, "nan"),
        ({"bound": 0.0}, "must be positive"),
        ({"scale": math.inf}, "inf"),
        ({"noise_multiplier": 1e-6}, "below half a step"),
    ],
)
def test_a_plan_that_cannot_hold_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(PrivacyError, match=message):
        distributed(**changes)


@pytest.mark.parametrize(
    "changes", [{"bound": 0.0}, {"bound": math.nan}, {"noise_multiplier": 0.0}, {"noise_multiplier": math.nan}]
)
def test_a_server_without_noise_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(PrivacyError, match="bound"):
        server(**changes)


def test_the_bound_moves_to_the_quantile_of_the_norms() -> None:
    """Andrew et al. 2021, figure 1, with enough sites that the noise is small."""
    adaptive = AdaptiveClipping(quantile=0.5, noise_multiplier=3.0)
    norms = np.random.default_rng(0).lognormal(1.0, 0.5, 400)
    bound, stream = 0.01, Keystream(KEY)
    for _ in range(120):
        total = sum(adaptive.constrain_sensitivity(float(norm), bound) for norm in norms)
        bound = adaptive.next_bound(bound, adaptive.add_noise(total, stream), sites=400)
    assert bound == pytest.approx(float(np.median(norms)), rel=0.1)


def test_the_geometric_update_by_hand() -> None:
    adaptive = AdaptiveClipping(quantile=0.75, rate=0.2, noise_multiplier=1.0)
    assert adaptive.next_bound(2.0, -10, sites=10) == pytest.approx(2.0 * math.exp(0.2 * 0.75))
    assert adaptive.next_bound(2.0, 10, sites=10) == pytest.approx(2.0 * math.exp(-0.2 * 0.25))
    assert adaptive.next_bound(2.0, 10**9, sites=10) == adaptive.next_bound(2.0, 10, sites=10)
    assert AdaptiveClipping(noise_multiplier=1.0, most=1.0).next_bound(2.0, -10, sites=10) == 1.0


def test_counts_of_the_quantile_are_noised_and_cost() -> None:
    adaptive = AdaptiveClipping(noise_multiplier=5.0)
    stream = Keystream(KEY)
    noise = np.array([adaptive.add_noise(0, stream) for _ in range(300)])
    assert noise.std() == pytest.approx(5.0, rel=0.15)
    assert adaptive.event(count=9) == Gaussian(unit=Unit.SITE, noise_multiplier=5.0, count=9)
    alone, both = [server().event(count=9)], [server().event(count=9), adaptive.event(count=9)]
    assert epsilon_pld(both, 1e-5) > epsilon_pld(alone, 1e-5)


@pytest.mark.parametrize("norm", [math.nan, math.inf, -1.0])
def test_a_norm_that_is_none_does_not_pass_as_small(norm: float) -> None:
    with pytest.raises(PrivacyError):
        AdaptiveClipping(noise_multiplier=1.0).constrain_sensitivity(norm, 1.0)


@pytest.mark.parametrize(
    "changes", [{"quantile": 1.0}, {"rate": 0.0}, {"noise_multiplier": 0.0}, {"noise_multiplier": math.nan}]
)
def test_adaptive_clipping_that_makes_no_sense_is_refused(changes: dict[str, float]) -> None:
    with pytest.raises(PrivacyError, match="adaptive clipping"):
        AdaptiveClipping(**({"noise_multiplier": 1.0} | changes))  # type: ignore[arg-type]


def test_server_held_noise_is_never_said_to_protect_from_the_server() -> None:
    assert "**not from the server**" in (mechanism_module.__doc__ or "")
