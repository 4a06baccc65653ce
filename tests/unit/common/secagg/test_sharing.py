"""Shamir's sharing, held against a second implementation: Gaussian elimination over the same field, in fractions."""

import os
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hansa_common.secagg.sharing import PRIME, SHARE_BYTES, combine, split, weights


def solve(points: list[int], values: list[int]) -> int:
    """The constant term of the polynomial through these points, by eliminating one unknown after another."""
    rows = [[pow(x, power, PRIME) for power in range(len(points))] + [y] for x, y in zip(points, values, strict=True)]
    for column in range(len(points)):
        pivot = next(row for row in rows[column:] if row[column])
        rows.remove(pivot)
        inverse = pow(pivot[column], PRIME - 2, PRIME)
        pivot = [entry * inverse % PRIME for entry in pivot]
        rows = [
            [(entry - row[column] * top) % PRIME for entry, top in zip(row, pivot, strict=True)] if row[column] else row
            for row in rows
        ]
        rows.insert(column, pivot)
    return rows[0][-1]


def is_prime(number: int) -> bool:
    """Miller and Rabin's test to the first twenty primes."""
    odd, twos = number - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for base in (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71):
        value = pow(base, odd, number)
        if value not in {1, number - 1} and all(
            (value := value * value % number) != number - 1 for _ in range(twos - 1)
        ):
            return False
    return True


def test_the_field_is_one_and_holds_every_secret() -> None:
    assert is_prime(PRIME)
    assert PRIME > 2**256
    assert not any(is_prime(2**256 + offset) for offset in range(1, 297, 2))


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(data=st.data(), secret=st.binary(min_size=32, max_size=32), count=st.integers(1, 12))
def test_any_threshold_of_shares_gives_the_secret(data: Any, secret: bytes, count: int) -> None:
    threshold = data.draw(st.integers(1, count))
    shares = split(secret, threshold=threshold, count=count, rand=os.urandom)
    chosen = data.draw(st.permutations(range(count)))[:threshold]
    picked = [shares[place] for place in chosen]
    assert combine(weights([place + 1 for place in chosen]), picked) == secret
    numbers = [int.from_bytes(share, "big") for share in picked]
    assert solve([place + 1 for place in chosen], numbers).to_bytes(32, "big") == secret
    assert {len(share) for share in shares} == {SHARE_BYTES}


@pytest.mark.parametrize("secret", [bytes(32), b"\xff" * 32, bytes(31) + b"\1"])
def test_all_subsets_agree_at_the_edges(secret: bytes) -> None:
    shares = split(secret, threshold=3, count=5, rand=os.urandom)
    for chosen in combinations(range(5), 3):
        assert combine(weights([place + 1 for place in chosen]), [shares[place] for place in chosen]) == secret


def test_fewer_shares_than_the_threshold_fit_every_secret() -> None:
    """For two of three shares there is a third one for whatever secret one likes."""
    shares = split(b"s" * 32, threshold=3, count=3, rand=os.urandom)
    for wished in (bytes(32), b"w" * 32):
        first, second, third = weights([1, 2, 3])
        known = first * int.from_bytes(shares[0], "big") + second * int.from_bytes(shares[1], "big")
        missing = (int.from_bytes(wished, "big") - known) * pow(third, -1, PRIME) % PRIME
        assert combine([first, second, third], [*shares[:2], missing.to_bytes(33, "big")]) == wished


def test_shares_of_one_secret_differ_each_time() -> None:
    first, second = (split(b"s" * 32, threshold=2, count=3, rand=os.urandom) for _ in range(2))
    assert not set(first) & set(second)


def test_the_shares_are_those_of_the_polynomial_that_was_drawn() -> None:
    drawn = iter([(5).to_bytes(48, "big"), (7).to_bytes(48, "big")])
    shares = split((11).to_bytes(32, "big"), threshold=3, count=3, rand=lambda count: next(drawn))
    assert [int.from_bytes(share, "big") for share in shares] == [5 * x**2 + 7 * x + 11 for x in (1, 2, 3)]


def test_what_is_no_secret_or_no_share_is_refused() -> None:
    for secret, threshold, count in ((b"", 1, 1), (bytes(33), 1, 1), (bytes(32), 0, 3), (bytes(32), 4, 3)):
        with pytest.raises(ValueError):
            split(secret, threshold=threshold, count=count, rand=os.urandom)
    for points in ([1, 1], [0, 1]):
        with pytest.raises(ValueError):
            weights(points)
    with pytest.raises(ValueError, match="element of the field"):
        combine([1], [PRIME.to_bytes(33, "big")])
    with pytest.raises(ValueError):
        combine([1, 1], [bytes(33)])
    assert combine([1], [(2**256).to_bytes(33, "big")]) is None
