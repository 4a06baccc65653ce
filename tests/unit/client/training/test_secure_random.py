import os

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy import stats

from hansa_client.training.secure_random import SecureRandomness


def test_no_seed_repeats_the_draws() -> None:
    drawn: list[npt.NDArray[np.int64]] = []
    for _ in range(2):
        np.random.seed(1)  # noqa: NPY002
        torch.manual_seed(1)
        drawn.append(SecureRandomness().gaussian(1e6, 50))
    assert not np.array_equal(drawn[0], drawn[1])


def test_all_draws_come_from_the_operating_system(monkeypatch: pytest.MonkeyPatch) -> None:
    def draw() -> list[bytes]:
        source = SecureRandomness()
        limits = np.full(9, 1 << 40)
        parts = (source.sample(99, 0.5), source.below(limits), source.gaussian(1e9, 9), np.array([source.seed()]))
        return [part.tobytes() for part in parts]

    asked: list[int] = []

    def constant(size: int) -> bytes:
        asked.append(size)
        return bytes(size)

    monkeypatch.setattr(os, "urandom", constant)
    assert draw() == draw()
    assert asked == [32, 32]
    monkeypatch.setattr(os, "urandom", lambda size: b"\x01" * size)
    other = draw()
    monkeypatch.setattr(os, "urandom", constant)
    assert not set(other) & set(draw())


def test_a_stream_goes_on() -> None:
    source = SecureRandomness()
    assert not np.array_equal(source.gaussian(1e6, 20), source.gaussian(1e6, 20))
    assert source.seed() != source.seed()


@pytest.mark.parametrize("rate", [0.0, 0.004, 0.3, 0.999])
def test_each_is_sampled_at_the_rate(rate: float) -> None:
    count = 200_000
    found = int(SecureRandomness().sample(count, rate).sum())
    assert abs(found - count * rate) <= 5.0 * np.sqrt(count * rate * (1.0 - rate))


def test_persons_are_sampled_independently() -> None:
    source = SecureRandomness()
    sizes = np.array([int(source.sample(1_000, 0.1).sum()) for _ in range(2_000)])
    assert sizes.var() == pytest.approx(90.0, rel=0.2)  # batches of one size would have none


@pytest.mark.parametrize("rate", [-0.1, 1.0, 2.0, float("nan")])
def test_a_rate_that_is_none_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match="sampling rate"):
        SecureRandomness().sample(3, rate)


def test_numbers_below_a_limit_are_uniform() -> None:
    limits = np.repeat([1, 2, 7], 30_000)
    drawn = SecureRandomness().below(limits)
    for limit in (1, 2, 7):
        counts = np.bincount(drawn[limits == limit], minlength=limit)
        assert len(counts) == limit
        if limit > 1:
            assert stats.chisquare(counts).pvalue > 1e-7


@pytest.mark.parametrize("deviation", [0.4, 1.0, 30.0, 5e6])
def test_noise_is_a_rounded_normal_deviate(deviation: float) -> None:
    count = 200_000
    drawn = SecureRandomness().gaussian(deviation, count)
    assert drawn.dtype == np.int64
    assert abs(drawn.mean()) <= 5.0 * deviation / np.sqrt(count) + 5.0 / np.sqrt(count)
    for limit in np.unique(np.rint(np.linspace(-4.0, 4.0, 33) * deviation)):
        expected = stats.norm.cdf(limit + 0.5, scale=deviation)
        assert abs((drawn <= limit).mean() - expected) <= 5.5 * np.sqrt(expected * (1.0 - expected) / count) + 1e-9


def test_an_odd_number_of_draws_and_none() -> None:
    assert SecureRandomness().gaussian(10.0, 7).shape == (7,)
    assert SecureRandomness().gaussian(10.0, 0).shape == (0,)


def test_draws_of_one_call_are_not_correlated() -> None:
    drawn = SecureRandomness().gaussian(1e6, 200_000) / 1e6
    half = len(drawn) // 2
    for product in (
        drawn[1:] * drawn[:-1],
        drawn[:half] * drawn[half:],
        (drawn[:half] ** 2 - 1) * (drawn[half:] ** 2 - 1) / 2,
    ):
        assert abs(product.mean()) <= 5.0 / np.sqrt(len(product))
