"""Counts of how a model predicts numbers: sums of errors and of the numbers themselves, and powers of both.

Everything is counted in scales of the plan's target: an error is a whole number of 2**-16 scales, at most 2**31 of
them, and what is summed are exact powers of those whole numbers. Sums of signed values are kept as two, of those above
and of those below 0.
"""

from dataclasses import dataclass, field
from typing import Final, Self

import numpy as np

from hansa_common.errors import MessageError
from hansa_common.metrics.bins import Floats, Integers
from hansa_common.metrics.counts import CONSTANT, LOSS_ONE, MAX_LOSS, Moments, loss_units, sum_of_squares

VALUE_ONE: Final = 1 << 16  # units of one scale
MAX_UNITS: Final = (1 << 31) - 1  # of one value: 32,768 scales
_EARLY, _LATE = 13.0, 10.0  # cycles; Saxena et al., PHM 2008: predicted too early, and too late, which is worse


@dataclass(frozen=True, slots=True, kw_only=True)
class RegressionCounts(Moments):
    """What is known of one model on one set of examples with numbers.

    Attributes:
        loss_units: Sum of the losses in units of 2**-20.
        over: Sum of the errors above 0 (predicted too high), in units of 2**-16 scales.
        under: Sum of the sizes of the errors below 0.
        squared: Sum of the squared errors, in squares of that unit.
        fourth: Sum of their fourth powers: how sure the mean square is.
        above: Sum of the numbers above 0.
        below: Sum of the sizes of the numbers below 0.
        number_squared: Sum of the squares of the numbers.
        score_units: Sum of the C-MAPSS scores in units of 2**-20; 0 where the plan asks for none.
        scale: Of the plan's target.
        scored: Whether the plan asks for the C-MAPSS score.
    """

    loss_units: int = 0
    over: int = 0
    under: int = 0
    squared: int = 0
    fourth: int = 0
    above: int = 0
    below: int = 0
    number_squared: int = 0
    score_units: int = 0
    scale: float = field(default=1.0, metadata=CONSTANT)
    scored: bool = field(default=False, metadata=CONSTANT)

    def of(self, predictions: Floats, numbers: Floats, losses: Floats) -> Self:
        """Count a model's predictions, with these counts' constants.

        Args:
            predictions: ``[N]``, in scales.
            numbers: ``[N]``, the true ones in scales.
            losses: ``[N]``, not negative.

        Raises:
            ValueError: A shape does not fit, or a value is NaN or infinite.
        """
        if not predictions.shape == numbers.shape == losses.shape == (len(numbers),):
            raise ValueError(f"There are predictions {predictions.shape}, numbers {numbers.shape}, {losses.shape}.")
        difference = predictions.astype(np.float64) - numbers.astype(np.float64)
        if not (np.isfinite(difference).all() and np.isfinite(losses).all()):
            raise ValueError("A prediction, number or loss is NaN or infinite.")
        errors, values = _units(difference), _units(numbers)
        return type(self)(
            num_examples=len(numbers),
            loss_units=loss_units(losses),
            over=int(np.maximum(errors, 0).sum()),
            under=int(np.maximum(-errors, 0).sum()),
            squared=sum_of_squares(errors),
            fourth=sum_of_squares(errors**2),
            above=int(np.maximum(values, 0).sum()),
            below=int(np.maximum(-values, 0).sum()),
            number_squared=sum_of_squares(values),
            score_units=loss_units(cmapss_score(difference * self.scale)) if self.scored else 0,
            scale=self.scale,
            scored=self.scored,
        )

    @property
    def mean_loss(self) -> float | None:
        """The mean loss."""
        return self.loss_units / LOSS_ONE / self.num_examples if self.num_examples else None

    def describe(self) -> str:
        """See ``Counts``."""
        return f"counts of numbers in scales of {self.scale:g}{' with the C-MAPSS score' if self.scored else ''}"

    def check(self) -> None:
        """Hold the sums to each other: the Cauchy-Schwarz inequality is exact, because the values are whole numbers."""
        count, errors, numbers = self.num_examples, self.over + self.under, self.above + self.below
        most = int(MAX_LOSS) * LOSS_ONE * count
        if (
            max(self.loss_units, self.score_units) > most
            or (self.score_units and not self.scored)
            or not _agree(count, errors, self.squared)
            or not _agree(count, numbers, self.number_squared)
            or not _agree(count, self.squared, self.fourth)
        ):
            raise MessageError("The counts hold sums of errors that no examples have.")


def cmapss_score(differences: Floats) -> Floats:
    """Return the score of each prediction of remaining life, ``float64 [N]``: 0 where it is right.

    ``exp(-d / 13) - 1`` where the life was predicted too short, ``exp(d / 10) - 1`` where too long (Saxena, Goebel,
    Simon, Eklund: Damage Propagation Modeling for Aircraft Engine Run-to-Failure Simulation, PHM 2008).

    Args:
        differences: ``[N]``, predicted minus true, in cycles.
    """
    exponents = np.where(differences < 0, -differences / _EARLY, differences / _LATE)
    return np.asarray(np.expm1(np.minimum(exponents, np.log(MAX_LOSS) + 1)), dtype=np.float64)


def _units(values: Floats) -> Integers:
    return np.clip(np.rint(values.astype(np.float64) * VALUE_ONE), -MAX_UNITS, MAX_UNITS).astype(np.int64)


def _agree(count: int, first: int, second: int) -> bool:
    """Tell whether so many whole numbers can have this sum of sizes and this sum of squares."""
    return first <= second and first * first <= count * second and second <= first * MAX_UNITS**2
