import math
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hansa_common.errors import PlanError, ReleaseRefused
from hansa_common.secagg.fixedpoint import FixedPoint, Rounding


def make(bits: int = 32, limit: float = 1.0, sites: int = 10, **changes: Any) -> FixedPoint:
    return FixedPoint(ring_bits=bits, coordinate_range=limit, sites=sites, **changes)


def vector(*values: float) -> npt.NDArray[np.float32]:
    return np.array(values, dtype=np.float32)


def expected(encoding: FixedPoint, value: float, weight: float, random: int) -> int:
    """The encoding of one float32 in exact fractions."""
    limit = Fraction(encoding.coordinate_range)
    clamped = max(-limit, min(limit, Fraction(float(np.float32(value)))))
    units = clamped * Fraction(weight) * encoding.q_max / limit
    grid: int = round(units * 65536)
    return (grid + random) // 65536 % (1 << encoding.ring_bits)


@pytest.mark.parametrize(
    ("bits", "sites", "q_max"), [(16, 3, 8191), (16, 10, 2047), (16, 16, 1023), (16, 100, 255), (32, 10, 2**27 - 1)]
)
def test_values_have_as_many_bits_as_the_sum_of_all_sites_leaves(bits: int, sites: int, q_max: int) -> None:
    assert make(bits, sites=sites).q_max == q_max


@settings(max_examples=50, deadline=None, derandomize=True, database=None)
@given(bits=st.sampled_from([16, 32]), sites=st.integers(1, 100))
def test_no_sum_of_all_sites_can_leave_the_ring(bits: int, sites: int) -> None:
    encoding = make(bits, sites=sites)
    assert sites * (encoding.q_max + 1) < 2 ** (bits - 1)
    assert sites * 2 * (encoding.q_max + 1) >= 2 ** (bits - 1)  # twice as fine would not fit
    extreme = vector(1e30, -1e30)
    total = np.zeros(2, dtype=encoding.dtype)
    for _ in range(sites):
        total += encoding.encode(extreme, rounding=Rounding())[0]
    assert encoding.decode(total).tolist() == pytest.approx([sites, -sites], rel=2 / encoding.q_max)


def test_one_more_level_than_fits_is_refused_with_what_is_allowed() -> None:
    assert make(16, q_max=3275).q_max == 3275
    with pytest.raises(PlanError, match="allowed are values up to 3275"):
        make(16, q_max=3276)  # 10 * 3277 > 32767


def test_noise_counts_and_needs_32_bits() -> None:
    with pytest.raises(PlanError, match="noise needs 32"):
        make(16, noise=1.0)
    fits = (2**31 - 10 * 2**27) / 8
    assert make(noise=fits - 1, q_max=2**27 - 1).q_max == 2**27 - 1
    with pytest.raises(PlanError, match="noise"):
        make(noise=fits, q_max=2**27 - 1)
    assert make(noise=fits).q_max == 2**26 - 1
    with pytest.raises(PlanError):
        make(noise=2.0**29)


@pytest.mark.parametrize("limit", [0.0, -1.0, math.nan, math.inf])
def test_a_range_is_a_positive_number(limit: float) -> None:
    with pytest.raises(PlanError, match="coordinate_range"):
        make(limit=limit)


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(
    bits=st.sampled_from([16, 32]),
    value=st.floats(-4, 4, width=32),
    weight=st.floats(0.01, 1.0),
    limit=st.sampled_from([0.25, 1.0, 0.3]),
    key=st.binary(min_size=32, max_size=32),
)
def test_a_coordinate_is_encoded_as_in_exact_fractions(
    bits: int, value: float, weight: float, limit: float, key: bytes
) -> None:
    encoding = make(bits, limit)
    random = int(Rounding(key).draw(1)[0])
    words, clamped = encoding.encode(vector(value), weight, rounding=Rounding(key))
    difference = (int(words[0]) - expected(encoding, value, weight, random)) % 2**bits
    # float32 and float64 meet the grid of 1/65536 to within some of its points, which is seldom another unit
    assert difference in {0, 1, 2**bits - 1}
    if bits == 32 and weight == 1.0 and limit != 0.3:
        assert difference == 0
    assert clamped == (abs(np.float32(value)) > limit)


@pytest.mark.parametrize("bits", [16, 32])
@pytest.mark.parametrize("fraction", [0.0, 0.125, 0.5, 0.75, -0.25, -0.9375])
def test_rounding_up_has_exactly_the_probability_of_what_is_left(bits: int, fraction: float) -> None:
    """All 65,536 values that 16 random bits can take, each once: the mean is the number itself."""
    encoding = make(bits, limit=1024.0, sites=3, q_max=1024)  # a unit is 1.0

    class Every(Rounding):
        def draw(self, count: int) -> npt.NDArray[np.uint16]:
            start = every[0]
            every[0] += count
            return np.arange(start, start + count, dtype=np.uint32).astype(np.uint16)

    every = [0]
    words, _ = encoding.encode(np.full(65536, 7 + fraction, dtype=np.float32), rounding=Every())
    assert words.astype(np.int64).sum() == round((7 + fraction) * 65536)
    assert set(words.tolist()) <= {math.floor(7 + fraction), math.ceil(7 + fraction)}


@pytest.mark.parametrize("bits", [16, 32])
def test_the_random_bits_are_fresh_and_all_used(bits: int) -> None:
    encoding = make(bits, limit=1.0, sites=3, q_max=1)
    values = np.full(100_000, 0.5, dtype=np.float32)
    first, second = (encoding.encode(values, rounding=Rounding())[0] for _ in range(2))
    assert first.tolist() != second.tolist()
    for words in (first, second):
        assert abs(int(words.sum()) - 50_000) < 8 * math.sqrt(25_000)  # eight standard deviations
    assert (first[: 1 << 15] != first[1 << 15 : 1 << 16]).any()  # chunks do not repeat


def test_pieces_give_the_same_words_as_the_whole() -> None:
    encoding, values = make(16), np.linspace(-1.5, 1.5, 3 << 15, dtype=np.float32)
    whole, clamped = encoding.encode(values, 0.5, rounding=Rounding(b"k" * 32))
    rounding, room = Rounding(b"k" * 32), np.empty_like(whole)
    pieces = 0
    for start in range(0, values.size, 1 << 15):
        part = slice(start, start + (1 << 15))
        pieces += encoding.encode(values[part], 0.5, rounding=rounding, out=room[part])[1]
    assert (room == whole).all()
    assert pieces == clamped == int((np.abs(values) > 1.0).sum())


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_noise_is_added_in_units(dtype: Any) -> None:
    encoding = make(limit=8.0, q_max=8)
    noise = np.array([5, -5, 0], dtype=dtype)
    words, _ = encoding.encode(vector(1.0, 1.0, -3.0), rounding=Rounding(), noise=noise)
    assert words.tolist() == [6, 2**32 - 4, 2**32 - 3]
    assert encoding.decode(words).tolist() == [6.0, -4.0, -3.0]


def test_a_sum_decodes_to_the_weighted_mean() -> None:
    encoding, random = make(32, limit=0.1, sites=3), np.random.default_rng(3)
    updates = [random.uniform(-0.1, 0.1, 100_000).astype(np.float32) for _ in range(3)]
    weights = [1.0, 0.5, 0.25]
    total = np.zeros(100_000, dtype=encoding.dtype)
    for update, weight in zip(updates, weights, strict=True):
        total += encoding.encode(update, weight, rounding=Rounding())[0]
    plain = sum(weight * update.astype(np.float64) for weight, update in zip(weights, updates, strict=True))
    assert np.abs(encoding.decode(total) - plain).max() <= 3 * encoding.step
    narrow = np.empty(100_000, dtype=np.float32)
    assert encoding.decode(total, out=narrow) is narrow
    assert np.abs(narrow - plain).max() <= 1e-7


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("bits", [16, 32])
def test_what_is_not_finite_is_refused(wrong: float, bits: int) -> None:
    values = np.zeros(100_000, dtype=np.float32)
    values[99_999] = wrong
    with pytest.raises(ReleaseRefused):
        make(bits).encode(values, rounding=Rounding())


@pytest.mark.parametrize("weight", [0.0, -0.5, 1.001, math.nan])
def test_a_weight_is_in_its_range(weight: float) -> None:
    with pytest.raises(ValueError):
        make().encode(vector(0.5), weight, rounding=Rounding())


def test_nothing_is_encoded_to_nothing() -> None:
    words, clamped = make().encode(vector(), rounding=Rounding())
    assert (words.size, clamped, make().decode(words).size) == (0, 0, 0)
