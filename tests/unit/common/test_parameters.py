import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pydantic import ValidationError

from hansa_common import parameters
from hansa_common.parameters import ParameterSpec, Tensor, Vector, add_scaled, is_finite, l2_norm

_LENGTHS = [0, 1, parameters.CHUNK - 1, parameters.CHUNK, parameters.CHUNK + 1, 2 * parameters.CHUNK + 3]
_VECTORS = hnp.arrays(np.float32, st.integers(0, 40), elements=st.floats(-(2.0**60), 2.0**60, width=32))


@pytest.fixture
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parameters, "CHUNK", 7)


def _vector(length: int) -> Vector:
    return np.random.default_rng(length).normal(0, 3, length).astype(np.float32)


@pytest.mark.parametrize("length", _LENGTHS)
def test_the_norm_is_that_of_float64(length: int) -> None:
    vector = _vector(length)
    assert l2_norm(vector) == pytest.approx(float(np.linalg.norm(vector.astype(np.float64))), rel=1e-12)


@pytest.mark.parametrize("length", _LENGTHS)
def test_adding_is_that_of_float64(length: int) -> None:
    vector, accumulator = _vector(length), _vector(length).astype(np.float64)[::-1].copy()
    expected = accumulator + 0.3 * vector.astype(np.float64)
    add_scaled(accumulator, vector, 0.3)
    assert np.array_equal(accumulator, expected)


@pytest.mark.parametrize("length", _LENGTHS[1:])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_value_that_is_not_finite_is_found_wherever_it_is(length: int, value: float) -> None:
    vector = _vector(length)
    assert is_finite(vector)
    for position in {0, length // 2, length - 1, min(parameters.CHUNK, length - 1)}:
        broken = vector.copy()
        broken[position] = value
        assert not is_finite(broken)


def test_the_empty_vector_is_finite_and_zero() -> None:
    assert is_finite(np.zeros(0, np.float32))
    assert l2_norm(np.zeros(0, np.float32)) == 0.0


def test_the_norm_does_not_overflow_float32() -> None:
    assert l2_norm(np.full(4, 3e38, np.float32)) == pytest.approx(6e38)
    assert l2_norm(np.full(4, 1e-40, np.float32)) == pytest.approx(2e-40, rel=1e-4)


@settings(deadline=None)
@given(vector=_VECTORS, weight=st.floats(-1e3, 1e3))
@pytest.mark.usefixtures("_small_chunks")
def test_any_vector_across_chunks(vector: Vector, weight: float) -> None:
    exact = math.sqrt(math.fsum(float(value) ** 2 for value in vector))
    assert l2_norm(vector) == pytest.approx(exact, rel=1e-12)
    accumulator = np.ones(vector.size)
    add_scaled(accumulator, vector, weight)
    assert accumulator.tolist() == [1.0 + weight * float(value) for value in vector]
    assert is_finite(vector)


@pytest.mark.parametrize("shapes", [((3,), (4,)), ((4,), (3,)), ((2, 2), (4,))])
def test_unlike_shapes_are_not_added(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    with pytest.raises(RuntimeError, match="Cannot add"):
        add_scaled(np.zeros(shapes[0]), np.zeros(shapes[1], np.float32), 1.0)


@given(shapes=st.lists(hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4), min_size=1, max_size=6))
def test_split_gives_every_tensor_its_part_as_a_view(shapes: list[tuple[int, ...]]) -> None:
    tensors = [np.random.default_rng(index).normal(size=shape).astype(np.float32) for index, shape in enumerate(shapes)]
    spec = ParameterSpec(tensors=tuple(Tensor(name=f"t{index}", shape=shape) for index, shape in enumerate(shapes)))
    vector = np.concatenate([np.ravel(tensor) for tensor in tensors])
    assert spec.size == vector.size
    parts = list(spec.split(vector))
    assert [name for name, _ in parts] == [f"t{index}" for index in range(len(shapes))]
    assert all(np.array_equal(part, tensor) for (_, part), tensor in zip(parts, tensors, strict=True))
    assert all(part.size == 0 or np.shares_memory(part, vector) for _, part in parts)


@pytest.mark.parametrize("shape", [(-1,), (2**31 + 1,), (2.0,), ("3",)])
def test_impossible_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValidationError):
        Tensor(name="t", shape=shape)


def test_a_model_has_at_least_one_tensor_and_tensors_have_names() -> None:
    with pytest.raises(ValidationError):
        ParameterSpec(tensors=())
    with pytest.raises(ValidationError):
        Tensor(name="", shape=(1,))
