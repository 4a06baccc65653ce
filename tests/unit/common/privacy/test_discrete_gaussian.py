"""The sampler against the formula, against the paper's scalar algorithm, and against itself in exact arithmetic."""

import ast
import math
import pickle
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from scipy import stats

import hansa_common.privacy
from hansa_common.errors import PrivacyError
from hansa_common.privacy import DiscreteGaussian, Keystream, noise_count

KEY = bytes(range(32))
SIGNIFICANT = 1e-4  # keys are fixed: a failure is a change, not chance


class Bits:
    """The paper's algorithms 1 to 3, a bit and a draw at a time, with Python's own integers."""

    def __init__(self, key: bytes) -> None:
        self._stream = self._read(key)

    @staticmethod
    def _read(key: bytes) -> Iterator[int]:
        encryptor = Cipher(algorithms.AES256(key), modes.CTR(bytes(16))).encryptor()
        while True:
            for byte in encryptor.update(bytes(4096)):
                yield from ((byte >> bit) & 1 for bit in range(8))

    def below(self, bound: int) -> int:
        while True:
            number = 0
            for _ in range((bound - 1).bit_length()):
                number = 2 * number + next(self._stream)
            if number < bound:
                return number

    def bernoulli(self, p: Fraction) -> bool:
        return self.below(p.denominator) < p.numerator

    def bernoulli_exp(self, exponent: Fraction) -> bool:
        while exponent > 1:
            if not self.bernoulli_exp(Fraction(1)):
                return False
            exponent -= 1
        k = 1
        while self.bernoulli(exponent / k):
            k += 1
        return k % 2 == 1

    def laplace(self, t: int) -> int:
        while True:
            u = self.below(t)
            if not self.bernoulli_exp(Fraction(u, t)):
                continue
            v = 0
            while self.bernoulli_exp(Fraction(1)):
                v += 1
            x, negative = u + t * v, self.bernoulli(Fraction(1, 2))
            if not (negative and x == 0):
                return -x if negative else x

    def gaussian(self, variance: Fraction) -> int:
        t = math.isqrt(int(variance)) + 1
        while True:
            y = self.laplace(t)
            if self.bernoulli_exp((abs(y) - variance / t) ** 2 / (2 * variance)):
                return y


def probabilities(variance: float, largest: int) -> list[float]:
    """Of ``<= -largest``, the integers between and ``>= largest``."""
    weights = {x: math.exp(-x * x / (2 * variance)) for x in range(-60 * largest - 60, 60 * largest + 61)}
    total = math.fsum(weights.values())
    tail = math.fsum(weight for x, weight in weights.items() if x >= largest) / total
    return [tail, *(weights[x] / total for x in range(1 - largest, largest)), tail]


def counted(draws: "np.ndarray[tuple[int], np.dtype[np.int64]]", largest: int) -> list[int]:
    counts = np.bincount(np.clip(draws, -largest, largest) + largest, minlength=2 * largest + 1)
    values: list[int] = counts.tolist()
    return values


@pytest.mark.parametrize("variance", [Fraction(1, 9), Fraction(1), Fraction(22, 7), Fraction(900), Fraction(5000)])
def test_its_probabilities_are_the_formula_s(variance: Fraction) -> None:
    largest = max(1, int(3 * math.sqrt(variance)))
    count = 400_000
    draws = DiscreteGaussian(variance, Keystream(KEY)).draw(count)
    expected = [count * p for p in probabilities(float(variance), largest)]
    assert stats.chisquare(counted(draws, largest), expected, sum_check=False).pvalue > SIGNIFICANT


@pytest.mark.parametrize("deviation", [10, 1000, 100_000, 2**33])
def test_its_moments_for_large_deviations(deviation: int) -> None:
    count = 400_000
    draws = DiscreteGaussian(Fraction(deviation) ** 2, Keystream(KEY)).draw(count).astype(np.float64) / deviation
    assert abs(draws.mean()) < 4.5 / math.sqrt(count)
    assert abs((draws**2).mean() - 1) < 4.5 * math.sqrt(2 / count)
    assert abs((draws**4).mean() - 3) < 4.5 * math.sqrt(96 / count)
    if deviation >= 1000:  # steps are too small to see
        assert stats.kstest(draws[:50_000], "norm").pvalue > SIGNIFICANT


def test_the_low_bits_of_large_draws_are_uniform() -> None:
    draws = DiscreteGaussian(Fraction(2**40), Keystream(KEY)).draw(200_000)
    assert stats.chisquare(np.bincount(draws & 1023, minlength=1024)).pvalue > SIGNIFICANT


@pytest.mark.parametrize("variance", [Fraction(2, 3), Fraction(50)])
def test_it_has_the_distribution_of_the_paper_s_algorithm(variance: Fraction) -> None:
    largest = int(2.5 * math.sqrt(variance)) + 1
    scalar = Bits(KEY)
    ours = counted(DiscreteGaussian(variance, Keystream(KEY)).draw(20_000), largest)
    theirs = counted(np.array([scalar.gaussian(variance) for _ in range(2_500)]), largest)
    assert stats.chi2_contingency([ours, theirs]).pvalue > SIGNIFICANT


@pytest.mark.parametrize("variance", [Fraction(3, 7), Fraction(900), Fraction(12_345) ** 2, Fraction(2**66 + 1, 3)])
def test_floats_decide_nothing_that_exact_arithmetic_decides_otherwise(
    variance: Fraction, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hansa_common.privacy.discrete_gaussian._BATCH", 1024)
    for margin, count in ((2.0, 600), (0.02, 40_000)):
        fast = DiscreteGaussian(variance, Keystream(KEY)).draw(count)
        exact = DiscreteGaussian(variance, Keystream(KEY), margin=margin).draw(count)
        assert np.array_equal(fast, exact)


def test_a_comparison_that_floats_cannot_make_is_made_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Uniform numbers that agree with the probability in their first 44 bits, or are just so far off that floats do."""
    sampler = DiscreteGaussian(Fraction(10_000), Keystream(KEY))
    blocks = sampler._blocks
    asked: list[int] = []
    column = next(index for index in range(1, 9) if blocks.alias[index] != index)
    word = np.uint64(column) << np.uint64(55)
    offset, base = 3, column << blocks.shift
    near = blocks.ratio[column] * math.exp(-offset * (2 * base + offset) / 20_000)
    distances = (2.0**-44, -(2.0**-44), 2.0**-38, -(2.0**-38))
    tested = np.array([int((near + distance) * 2.0**64) for distance in distances], dtype=np.uint64)
    words = np.concatenate([np.full(4, word), np.full(4, np.uint64(offset)), tested])
    monkeypatch.setattr("hansa_common.privacy.discrete_gaussian._BATCH", 4)
    monkeypatch.setattr(Keystream, "words", lambda stream, count: words)
    decide = sampler._decide

    def note(block: int, value: int, uniform: int) -> tuple[int, bool]:
        asked.append(uniform)
        return decide(block, value, uniform)

    monkeypatch.setattr(sampler, "_decide", note)
    accepted = sampler._batch()
    assert asked == tested[:2].tolist()
    assert accepted.tolist() == [base + offset] * 2  # the two that are below


@pytest.mark.parametrize("variance", [Fraction(2), Fraction(400)])
def test_the_tail_is_drawn_from_the_same_distribution(variance: Fraction, monkeypatch: pytest.MonkeyPatch) -> None:
    """With blocks up to one deviation only, a third of the draws comes from behind them."""
    monkeypatch.setattr("hansa_common.privacy.discrete_gaussian._BATCH", 2048)
    largest = int(3.5 * math.sqrt(variance))
    draws = DiscreteGaussian(variance, Keystream(KEY), reach=1).draw(3_000)
    expected = [draws.size * p for p in probabilities(float(variance), largest)]
    assert stats.chisquare(counted(draws, largest), expected, sum_check=False).pvalue > SIGNIFICANT
    assert (np.abs(draws) > 2 * math.sqrt(variance)).mean() > 0.03


def test_known_answers() -> None:
    """Every operation is on integers or decided exactly, so these hold on every machine."""
    small = DiscreteGaussian(Fraction(9), Keystream(KEY)).draw(12)
    large = DiscreteGaussian(Fraction(10) ** 10, Keystream(KEY)).draw(6)
    assert small.tolist() == SMALL
    assert large.tolist() == LARGE
    assert Keystream(KEY).word() == int.from_bytes(bytes.fromhex("f29000b62a499fd0"), "little")  # AES-256 of zeros


SMALL = [4, -2, 5, 3, -2, 0, 1, 0, -1, 2, -4, 4]
LARGE = [113750, -52146, 141987, -12872, 98148, -67701]


def test_draws_do_not_depend_on_how_they_are_asked_for() -> None:
    whole = DiscreteGaussian(Fraction(77), Keystream(KEY)).draw(40_000)
    parts = DiscreteGaussian(Fraction(77), Keystream(KEY))
    assert np.array_equal(whole, np.concatenate([parts.draw(1), parts.draw(17_000), *parts.chunks(22_999, size=9_000)]))
    values = np.arange(40_000, dtype=np.int64)
    DiscreteGaussian(Fraction(77), Keystream(KEY)).add_to(values)
    assert np.array_equal(values, whole + np.arange(40_000))


@pytest.mark.parametrize("variance", [Fraction(0), Fraction(1, 300), Fraction(-1), Fraction(1 << 101)])
def test_what_is_no_noise_is_refused(variance: Fraction) -> None:
    with pytest.raises(PrivacyError, match="variance"):
        DiscreteGaussian(variance, Keystream(KEY))


def test_two_keystreams_never_agree_and_none_shows_its_key() -> None:
    assert Keystream().word() != Keystream().word()
    assert repr(Keystream(KEY)) == "Keystream()"
    assert "stream" not in repr(DiscreteGaussian(Fraction(1), Keystream(KEY)))
    with pytest.raises(RuntimeError, match="not copied"):
        pickle.dumps(Keystream())
    with pytest.raises(RuntimeError, match="32 bytes"):
        Keystream(b"short")


def test_a_forked_process_cannot_draw_the_same_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Keystream()
    monkeypatch.setattr("hansa_common.privacy.keystream.os.getpid", lambda: -1)
    with pytest.raises(RuntimeError, match="fork"):
        stream.words(1)


def test_noise_never_comes_from_a_seeded_or_global_generator(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(hansa_common.privacy.__file__).parent
    for path in folder.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute):
                assert node.attr not in {"random", "default_rng", "RandomState", "seed"}, path
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {alias.name for alias in node.names} | {getattr(node, "module", "") or ""}
                assert not names & {"random", "numpy.random", "torch", "secrets"}, path

    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("A generator of NumPy's was used.")

    for name in ("default_rng", "normal", "random", "randint", "standard_normal", "Generator"):
        monkeypatch.setattr(np.random, name, forbidden)
    assert DiscreteGaussian(Fraction(100), Keystream()).draw(100).size == 100


@pytest.mark.parametrize("epsilon", [0.5, 2.0])
def test_noise_on_counts_has_the_probabilities_of_the_discrete_laplace(epsilon: float) -> None:
    stream = Keystream(KEY)
    count, largest = 3_000, int(4 / epsilon)
    draws = np.array([noise_count(7, epsilon, stream) - 7 for _ in range(count)])
    inner = [math.tanh(epsilon / 2) * math.exp(-epsilon * abs(x)) for x in range(1 - largest, largest)]
    tail = (1 - math.fsum(inner)) / 2
    expected = [count * p for p in (tail, *inner, tail)]
    assert stats.chisquare(counted(draws, largest), expected, sum_check=False).pvalue > SIGNIFICANT


@pytest.mark.parametrize("epsilon", [0.0, -1.0, math.nan, math.inf])
def test_a_count_without_noise_is_refused(epsilon: float) -> None:
    with pytest.raises(PrivacyError, match="epsilon of a count"):
        noise_count(7, epsilon, Keystream())
