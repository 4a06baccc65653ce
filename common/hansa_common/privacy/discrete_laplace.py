"""The discrete Laplace on the integers, exact, a draw at a time: noise of the few counts that leave.

Canonne, Kamath, Steinke: The Discrete Gaussian for Differential Privacy, NeurIPS 2020, algorithms 1 and 2, on integers.
"""

from fractions import Fraction

from hansa_common.errors import PrivacyError
from hansa_common.privacy.keystream import Keystream


def noise_count(value: int, epsilon: float, stream: Keystream) -> int:
    """Return a count with noise ``P[x] ~ exp(-epsilon |x|)``: epsilon-private where one unit changes it by at most 1.

    Raises:
        PrivacyError: Epsilon is not positive and finite.
    """
    if not 0.0 < epsilon < float("inf"):
        raise PrivacyError(f"epsilon of a count: found {epsilon!r}.", advice="Allowed is a positive number.")
    return value + _discrete_laplace(Fraction(epsilon), stream)


def _discrete_laplace(epsilon: Fraction, stream: Keystream) -> int:
    steps, scale = epsilon.numerator, epsilon.denominator
    while True:
        part = _uniform(scale, stream)
        if not _is_exponential(Fraction(part, scale), stream):
            continue
        whole = 0
        while _is_exponential(Fraction(1), stream):
            whole += 1
        magnitude = (part + scale * whole) // steps
        is_negative = bool(stream.word() & 1)
        if not (is_negative and magnitude == 0):
            return -magnitude if is_negative else magnitude


def _is_exponential(exponent: Fraction, stream: Keystream) -> bool:
    """Return true with probability ``exp(-exponent)``, for an exponent in [0, 1]."""
    trials = 1
    while _uniform(exponent.denominator * trials, stream) < exponent.numerator:
        trials += 1
    return trials % 2 == 1


def _uniform(bound: int, stream: Keystream) -> int:
    """Return an integer below ``bound``, each with the same probability."""
    bits = (bound - 1).bit_length()
    words = -(-bits // 64)
    while True:
        number = 0
        for _ in range(words):
            number = number << 64 | stream.word()
        if (number := number & ((1 << bits) - 1)) < bound:
            return number
