"""Shamir's secret sharing of 32 bytes over a prime field.

Shamir: How to Share a Secret. Communications of the ACM 22(11), 1979. A secret is the value at 0 of a random polynomial
of degree ``t - 1``; the share of point ``x > 0`` is its value there. Any ``t`` shares give the secret, fewer say
nothing.

Python's integers are not constant-time. Sharing happens on the site's own machine, once a round; whoever can time it
there can read the memory too.
"""

from collections.abc import Callable, Sequence

PRIME = (1 << 256) + 297  # the smallest prime above 2^256
SECRET_BYTES = 32
SHARE_BYTES = 33
_COEFFICIENT_BYTES = 48  # reduced modulo PRIME: within 2^-127 of uniform

Rand = Callable[[int], bytes]
"""Returns that many random bytes; ``os.urandom``, but for test vectors."""


def split(secret: bytes, *, threshold: int, count: int, rand: Rand) -> list[bytes]:
    """Return the shares of points ``1 ... count``, 33 bytes each, big-endian.

    Raises:
        ValueError: The secret has another length, or there could never be enough shares.
    """
    if len(secret) != SECRET_BYTES or not 1 <= threshold <= count:
        raise ValueError("A secret of 32 bytes is split for a threshold of at most the number of shares.")
    coefficients = [int.from_bytes(rand(_COEFFICIENT_BYTES), "big") % PRIME for _ in range(threshold - 1)]
    coefficients.append(int.from_bytes(secret, "big"))
    return [_evaluate(coefficients, point).to_bytes(SHARE_BYTES, "big") for point in range(1, count + 1)]


def weights(points: Sequence[int]) -> list[int]:
    """Return Lagrange's coefficients at 0 for distinct points: a secret is the sum of weight times share.

    Raises:
        ValueError: A point is there twice, or is 0, where the secret lies.
    """
    if len(set(points)) != len(points) or not all(points):
        raise ValueError("Shares of distinct points other than 0 are needed.")
    result = []
    for one in points:
        numerator, denominator = 1, 1
        for other in points:
            if other != one:
                numerator = numerator * other % PRIME
                denominator = denominator * (other - one) % PRIME
        result.append(numerator * pow(denominator, -1, PRIME) % PRIME)
    return result


def combine(coefficients: Sequence[int], shares: Sequence[bytes]) -> bytes | None:
    """Return the secret, or none where these shares are not those of 32 bytes.

    Args:
        coefficients: What ``weights`` returned for the shares' points.
        shares: As many shares as the threshold, in the same order.

    Raises:
        ValueError: A share is not an element of the field.
    """
    values = [int.from_bytes(share, "big") for share in shares]
    if any(value >= PRIME for value in values):
        raise ValueError("A share is not an element of the field.")
    secret = sum(weight * value for weight, value in zip(coefficients, values, strict=True)) % PRIME
    return secret.to_bytes(SECRET_BYTES, "big") if secret < 1 << 256 else None


def _evaluate(coefficients: Sequence[int], point: int) -> int:
    """Horner's rule, the highest power first."""
    value = 0
    for coefficient in coefficients:
        value = (value * point + coefficient) % PRIME
    return value
