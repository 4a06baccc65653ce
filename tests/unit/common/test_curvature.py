import numpy as np
import pytest

from hansa_common.curvature import Curvature, pack, unpack
from hansa_common.strategies import STRATEGIES


def made(parameters: int, seed: int = 0) -> Curvature:
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(parameters, parameters)) * 10.0 ** rng.integers(-4, 4, size=parameters)
    return Curvature(loss=float(rng.uniform(0, 9)), gradient=rng.normal(size=parameters), hessian=root.T @ root)


@pytest.mark.parametrize("parameters", [1, 2, 7])
def test_what_is_unpacked_is_what_was_packed_to_48_bits(parameters: int) -> None:
    told = made(parameters)
    vector = pack(told)
    assert vector.dtype == np.float32
    assert vector.shape == (STRATEGIES["newton"].update_size(parameters),)
    found = unpack(vector, parameters)
    assert found.loss == pytest.approx(told.loss, rel=2.0**-47)
    np.testing.assert_allclose(found.gradient, told.gradient, rtol=2.0**-47)
    np.testing.assert_allclose(found.hessian, told.hessian, rtol=2.0**-47)


def test_a_number_beyond_float32_is_not_finite_and_so_never_leaves() -> None:
    vector = pack(Curvature(loss=1e300, gradient=np.zeros(1), hessian=np.zeros((1, 1))))
    assert not np.isfinite(vector).all()


@pytest.mark.parametrize("size", [0, 11, 13, 14])
def test_a_vector_of_another_length_is_no_curvature(size: int) -> None:
    assert STRATEGIES["newton"].update_size(2) == 12
    with pytest.raises(RuntimeError, match="has 12 values"):
        unpack(np.zeros(size, np.float32), 2)
