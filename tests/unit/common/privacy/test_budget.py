import math
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hansa_common.errors import PrivacyError
from hansa_common.privacy import Budget, add, exact, round_up


def test_a_tenth_ten_times_is_exactly_one() -> None:
    total = add(*[exact("0.1")] * 10)
    assert total == 1
    assert add(*[exact(0.1)] * 10) == 1
    budget = Budget.of("1.0", "1e-5")
    assert budget.allows(total)
    assert budget.remaining(total) == 0
    assert not budget.allows(add(total, Decimal("0.000001")))
    assert budget.remaining(Decimal("1.5")) == Decimal("-0.5")


@given(st.lists(st.decimals("0", "1000", places=6), max_size=30))
def test_a_sum_is_exact_whatever_the_order(values: list[Decimal]) -> None:
    scaled = sum(int(value * 10**6) for value in values)
    assert add(*values) == add(*reversed(values)) == Decimal(scaled) / 10**6


@pytest.mark.parametrize("value", ["", "much", "nan", "inf", math.nan, math.inf, True, None])
def test_what_is_no_number_is_no_budget(value: str) -> None:
    with pytest.raises(PrivacyError, match="privacy budget"):
        exact(value)


@pytest.mark.parametrize(
    ("epsilon", "delta"),
    [("-1", "1e-5"), ("1", "0"), ("1", "1"), ("1", "-0.1"), ("1" * 61, "1e-5"), (Decimal("NaN"), "1e-5")],
)
def test_a_budget_out_of_range_is_refused(epsilon: str, delta: str) -> None:
    with pytest.raises(PrivacyError):
        Budget.of(epsilon, delta)


def test_what_was_computed_is_rounded_up() -> None:
    assert round_up(1.0000001) == Decimal("1.000001")
    assert round_up(2.5) == Decimal("2.5")
    assert round_up(0.0) == 0
    assert round_up(1e-300) == Decimal("0.000001")
    assert round_up(math.inf) > Decimal(10) ** 100
    assert not Budget.of("1e9", "0.1").allows(round_up(math.inf))
    for value in (math.nan, -1e-9):
        with pytest.raises(PrivacyError):
            round_up(value)
