import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hansa_common.errors import PrivacyError, ReleaseRefused
from hansa_common.parameters import CHUNK, Vector, l2_norm
from hansa_common.privacy import clip_l2

_LARGEST = float(np.finfo(np.float32).max)

VECTORS = st.lists(st.floats(-_LARGEST, _LARGEST, width=32), max_size=12).map(
    lambda values: np.array(values, dtype=np.float32)
)
BOUNDS = st.floats(0.0, 1e30) | st.floats(0.0, 1e-40)


def vector(*values: float) -> Vector:
    return np.array(values, dtype=np.float32)


@settings(max_examples=150, derandomize=True, deadline=None)
@given(VECTORS, BOUNDS)
def test_the_guarantees_hold_for_every_vector_and_bound(given: Vector, bound: float) -> None:
    before = given.copy()
    clipped, norm = clip_l2(given, bound)
    assert np.array_equal(given, before)
    assert clipped.dtype == np.float32
    assert math.sqrt(math.fsum(float(value) ** 2 for value in clipped)) <= bound * (1 + 1e-15)
    assert l2_norm(clipped) <= bound
    assert (np.abs(clipped) <= np.abs(given)).all()
    assert ((np.sign(clipped) == np.sign(given)) | (clipped == 0)).all()
    assert norm == l2_norm(given)
    again = clip_l2(clipped, bound).vector
    assert np.array_equal(again, clipped)
    if norm <= bound:
        assert np.array_equal(clipped, given)


@settings(max_examples=40, derandomize=True, deadline=None)
@given(VECTORS, st.floats(1e-3, 1e3))
def test_no_more_is_taken_than_the_bound_asks_for(given: Vector, bound: float) -> None:
    clipped, norm = clip_l2(given, bound)
    if norm > bound:
        assert l2_norm(clipped) >= bound * (1 - 1e-5)


@pytest.mark.parametrize("bound", [-1.0, -1e-30, math.inf, -math.inf, math.nan])
def test_a_bound_that_bounds_nothing_is_refused(bound: float) -> None:
    with pytest.raises(PrivacyError, match="clipping bound"):
        clip_l2(vector(1.0), bound)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("position", [0, CHUNK, CHUNK + 2])
def test_nan_and_infinity_never_pass(value: float, position: int) -> None:
    given = np.zeros(CHUNK + 3, dtype=np.float32)
    given[position] = value
    for bound in (0.0, 1.0, 1e38):
        with pytest.raises(ReleaseRefused, match="NaN or infinite"):
            clip_l2(given, bound)


def test_the_table_of_edge_cases() -> None:
    assert clip_l2(vector(3.0, -4.0), 0.0).vector.tolist() == [0.0, 0.0]
    assert clip_l2(vector(0.0, 0.0), 1.0).vector.tolist() == [0.0, 0.0]
    assert clip_l2(vector(), 1.0).vector.tolist() == []
    assert clip_l2(vector(3.0, -4.0), 2.5).vector.tolist() == [1.5, -2.0]
    clipped, norm = clip_l2(vector(3e38, 3e38), 1.0)
    assert norm == pytest.approx(math.sqrt(2) * 3e38)
    assert clipped.tolist() == pytest.approx([math.sqrt(0.5)] * 2)
    assert clip_l2(vector(1.0), 1e-60).vector.tolist() == [0.0]


@pytest.mark.parametrize("wrong", [np.zeros((2, 2), np.float32), np.zeros(2, np.float64), np.zeros(2, np.int64)])
def test_anything_but_a_float32_vector_is_a_bug(wrong: Vector) -> None:
    with pytest.raises(RuntimeError, match="float32 vector"):
        clip_l2(wrong, 1.0)
