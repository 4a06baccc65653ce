import math

import numpy as np
import pytest

from hansa_client.leaks.similarity import match, psnr


@pytest.mark.slow
def test_the_ratio_is_that_of_its_definition() -> None:
    first, second = np.array([[0.0, 1.0, 0.5]]), np.array([[0.1, 1.0, 0.5], [0.0, 1.0, 0.5]])
    expected = 10 * math.log10(1 / (0.1**2 / 3))
    assert psnr(first, second, 1.0)[0].tolist() == [pytest.approx(expected), 120.0]
    assert psnr(first, second, 2.0)[0, 0] == pytest.approx(expected + 20 * math.log10(2))


@pytest.mark.slow
def test_each_reconstruction_is_used_once() -> None:
    originals = np.array([[0.0, 0.0], [0.2, 0.2], [1.0, 1.0]])
    pairs, ratios = match(originals, np.array([[0.11, 0.11], [0.9, 0.9]]), 1.0)
    assert pairs == [None, 0, 1]
    assert ratios[0] == -math.inf
    assert ratios[2] == pytest.approx(20.0)


@pytest.mark.slow
def test_nothing_reconstructed_is_nothing_recovered() -> None:
    assert match(np.ones((2, 3)), np.zeros((0, 3)), 1.0) == ([None, None], [-math.inf, -math.inf])
