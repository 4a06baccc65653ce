"""Privacy budgets as exact decimal values: 0.1 ten times is 1, and a comparison never turns on a float's last bit.

In TOML and JSON they are strings (``epsilon = "0.1"``); a float is taken as the shortest decimal that means it. What an
accountant computed is rounded up.
"""

import decimal
import math
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from hansa_common.errors import PrivacyError

_EXACT: Final = decimal.Context(prec=200, traps=[decimal.Inexact, decimal.InvalidOperation])
_MOST_DIGITS: Final = 60  # of a value as it is written
_STEP: Final = Decimal("0.000001")  # of a computed epsilon


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """An epsilon and the delta that it is meant at.

    Raises:
        PrivacyError: A value is no number, epsilon is negative, or delta is not inside (0, 1).
    """

    epsilon: Decimal
    delta: Decimal

    def __post_init__(self) -> None:
        for name, value in (("epsilon", self.epsilon), ("delta", self.delta)):
            if not value.is_finite() or value < 0 or len(value.as_tuple().digits) > _MOST_DIGITS:
                raise PrivacyError(f"{name}: found {value}.", advice="Allowed is a decimal number of at least 0.")
        if not 0 < self.delta < 1:
            raise PrivacyError(f"delta: found {self.delta}.", advice="Allowed is a number above 0 and below 1.")

    @classmethod
    def of(cls, epsilon: str | float | Decimal, delta: str | float | Decimal) -> "Budget":
        """Read a budget from text or numbers, exactly.

        Raises:
            PrivacyError: A value is no number or out of range.
        """
        return cls(epsilon=exact(epsilon), delta=exact(delta))

    def remaining(self, spent: Decimal) -> Decimal:
        """Return the epsilon that is left; below 0 where more was spent."""
        return _EXACT.subtract(self.epsilon, spent)

    def allows(self, spent: Decimal) -> bool:
        """Tell whether ``spent`` is within the budget, the whole of it included."""
        return spent <= self.epsilon


def exact(value: str | float | Decimal) -> Decimal:
    """Return a value as the decimal that its text means.

    Raises:
        PrivacyError: It is no finite number.
    """
    try:
        number = Decimal(repr(float(value)) if isinstance(value, float) else value)
    except (decimal.InvalidOperation, TypeError, ValueError):
        number = Decimal("NaN")
    if isinstance(value, bool) or not number.is_finite():
        raise PrivacyError(f"privacy budget: found {value!r}.", advice="Allowed is a decimal number, such as '0.5'.")
    return number


def add(*values: Decimal) -> Decimal:
    """Return the exact sum."""
    total = Decimal(0)
    for value in values:
        total = _EXACT.add(total, value)
    return total


def round_up(cost: float) -> Decimal:
    """Return a computed epsilon, rounded up to six decimals; infinity where nothing is guaranteed.

    Raises:
        PrivacyError: It is NaN or negative: nothing is compared with that.
    """
    if math.isnan(cost) or cost < 0.0:
        raise PrivacyError(f"privacy loss: found {cost!r}.")
    if math.isinf(cost):
        return Decimal("Infinity")
    return Decimal(cost).quantize(_STEP, rounding=decimal.ROUND_CEILING, context=decimal.Context(prec=400))
