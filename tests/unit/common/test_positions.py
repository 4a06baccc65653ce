"""The code of positions against one written bit by bit, and against whoever sends other bytes."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hansa_common.errors import MessageError
from hansa_common.positions import Positions, count_of, decode_positions, encode_positions, largest, most_bytes

SIZE, COUNT = 650, 13


@st.composite
def sets(draw: st.DrawFn) -> tuple[Positions, int]:
    size = draw(st.integers(1, 900))
    found = draw(st.sets(st.integers(0, size - 1), min_size=1, max_size=40))
    return np.array(sorted(found), np.int64), size


def written_out(positions: list[int], size: int) -> bytes:
    """Oracle: Rice's code, one bit after the other, with the largest power of two that is at most ``.69 P / K``."""
    b = max(0, math.floor(math.log2(max(1, 69 * size // (100 * len(positions))))))
    gaps = [later - earlier - 1 for earlier, later in pairwise([-1, *positions])]
    low = [gap >> bit & 1 for gap in gaps for bit in range(b)]
    high = [bit for gap in gaps for bit in [0] * (gap // 2**b) + [1]]
    return b"".join(
        bytes(
            sum(bit << place for place, bit in enumerate(bits[start : start + 8])) for start in range(0, len(bits), 8)
        )
        for bits in (low, high)
    )


@settings(derandomize=True, max_examples=100)
@given(sets())
def test_positions_come_back_from_the_bytes_of_rices_code(case: tuple[Positions, int]) -> None:
    positions, size = case
    content = encode_positions(positions, size)
    assert content == written_out(positions.tolist(), size)
    assert len(content) <= most_bytes(positions.size, size)
    np.testing.assert_array_equal(decode_positions(content, count=positions.size, size=size), positions)


def test_a_hundredth_takes_about_eight_bits_each() -> None:
    """The entropy of a bit that is one in a hundred times is 8.08 bits for each one."""
    size = 1_000_000
    positions = np.flatnonzero(np.random.default_rng(0).random(size) < 0.01)
    assert 8.08 <= 8 * len(encode_positions(positions, size)) / positions.size <= 8.08 * 1.03
    assert 8 * most_bytes(positions.size, size) / positions.size <= 8.08 * 1.07


@settings(derandomize=True, max_examples=150)
@given(content=st.binary(max_size=40), count=st.integers(1, 30), size=st.integers(30, 200))
def test_whatever_comes_is_refused_or_has_one_encoding(content: bytes, count: int, size: int) -> None:
    try:
        positions = decode_positions(content, count=count, size=size)
    except MessageError:
        return
    assert (np.diff(positions, prepend=-1) > 0).all()  # so none is there twice, and all are in order
    assert positions[-1] < size
    assert encode_positions(positions, size) == content


HONEST = encode_positions(np.arange(0, SIZE, 50, dtype=np.int64), SIZE)
LOW_BYTES = 9  # 13 positions of 5 low bits
LOW = HONEST[:LOW_BYTES]
HOSTILE = {
    "too many": (LOW + b"\xff\x3f", "14 positions; the plan has 13"),
    "a one too many": (HONEST[:-1] + bytes([HONEST[-1] | 2]), "14 positions; the plan has 13"),
    "too few": (LOW + b"\x01", "1 positions; the plan has 13"),
    "none": (LOW, "0 positions"),
    "out of range": (LOW + b"\x00\x00\xff\x1f", "out of range: 728 of 650"),
    "shorter than the low bits": (HONEST[: LOW_BYTES - 1], "bytes, not 8"),
    "longer than any": (HONEST + b"\0", "up to 13 bytes, not 14"),
    "a byte more": (LOW + b"\xff\x1f\x00", "bytes after the last position"),
    "low bits of a 14th": (LOW[:-1] + bytes([LOW[-1] | 0x80]) + HONEST[LOW_BYTES:], "low bits are not zero"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_positions_are_refused_by_name(name: str) -> None:
    assert decode_positions(HONEST, count=COUNT, size=SIZE).size == COUNT
    content, reason = HOSTILE[name]
    with pytest.raises(MessageError, match=reason):
        decode_positions(content, count=COUNT, size=SIZE)


@settings(derandomize=True, max_examples=60)
@given(
    vector=hnp.arrays(np.float32, st.integers(1, 60), elements=st.sampled_from([-2.0, -1.0, -0.0, 0.0, 1.0, 2.0, 9.0])),
    fraction=st.floats(0.01, 1.0),
)
def test_the_largest_are_chosen_and_of_equal_ones_the_first(vector: np.ndarray, fraction: float) -> None:
    count = count_of(fraction, vector.size)
    assert 1 <= count <= vector.size
    order = sorted(range(vector.size), key=lambda place: (-abs(float(vector[place])), place))
    assert largest(vector, count).tolist() == sorted(order[:count])


@pytest.mark.parametrize(("fraction", "size", "count"), [(0.01, 650, 6), (0.01, 100, 1), (1e-4, 3, 1), (0.07, 100, 7)])
def test_a_fraction_is_a_number_of_values(fraction: float, size: int, count: int) -> None:
    assert count_of(fraction, size) == count
