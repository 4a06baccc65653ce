"""Sums of attributions, which merge across sites exactly: integers only, so no order of merging matters.

Shapes: ``N`` examples, ``K`` classes, ``G`` groups of inputs.

An attribution is counted in units of 2**-20 of the model's score (9.5e-7), up to 4,096 an example and group, where it
saturates. What raised a score and what lowered it are summed apart: their sum over examples is the mean absolute
attribution, their difference the mean attribution.

On the wire it is one vector ``uint64 [K * (1 + 2 * G)]``: examples of each class, then ``raising [K, G]`` and
``lowering [K, G]`` row by row, so that masks can cover it. Evolution: never change the order or the unit.
"""

from dataclasses import dataclass, field
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from hansa_common.errors import MessageError

Integers = npt.NDArray[np.int64]
Doubles = npt.NDArray[np.float64]
UNIT: Final = 1 << 20  # units of one
MOST_ATTRIBUTED: Final = 4096.0  # of one example to one group
MOST_MERGED: Final = 1 << 30  # examples; keeps every sum below 2**63


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Importance:
    """What the inputs did to the scores of some examples' own classes.

    Attributes:
        examples: ``int64 [K]``, by class.
        raising: ``int64 [K, G]``, sum of what raised the score, in units.
        lowering: ``int64 [K, G]``, sum of what lowered it, not negative.
    """

    examples: Integers = field(repr=False)
    raising: Integers = field(repr=False)
    lowering: Integers = field(repr=False)

    @classmethod
    def zero(cls, classes: int, groups: int) -> Self:
        """Return the sums over no examples, the neutral element of ``merge``."""
        return cls(
            examples=np.zeros(classes, np.int64),
            raising=np.zeros((classes, groups), np.int64),
            lowering=np.zeros((classes, groups), np.int64),
        )

    @classmethod
    def of(cls, raising: Doubles, lowering: Doubles, labels: Integers, classes: int) -> Self:
        """Sum the attributions of examples.

        Args:
            raising: ``float64 [N, G]``, not negative.
            lowering: ``float64 [N, G]``, not negative.
            labels: ``int64 [N]``, each in ``0..K-1``.
            classes: ``K``.

        Raises:
            ValueError: A shape does not fit, a label is out of range, or a value is negative, NaN or infinite.
        """
        if raising.ndim != 2 or raising.shape != lowering.shape or labels.shape != raising.shape[:1]:  # noqa: PLR2004
            raise ValueError(f"Attributions {raising.shape} and {lowering.shape} do not fit labels {labels.shape}.")
        if labels.size and (labels.min() < 0 or labels.max() >= classes):
            raise ValueError(f"A label is outside 0..{classes - 1}.")
        found = cls.zero(classes, raising.shape[1])
        np.add.at(found.examples, labels, 1)
        for into, values in ((found.raising, raising), (found.lowering, lowering)):
            if not np.isfinite(values).all() or (values < 0.0).any():
                raise ValueError("An attribution is negative, NaN or infinite.")
            np.add.at(into, labels, np.rint(np.minimum(values, MOST_ATTRIBUTED) * UNIT).astype(np.int64))
        return found

    @property
    def num_examples(self) -> int:
        """``N``."""
        return int(self.examples.sum())

    def merge(self, other: "Importance") -> "Importance":
        """Return the sums over both sets of examples; exact, associative and commutative.

        Raises:
            RuntimeError: The shapes differ.
            MessageError: Together they claim more examples than can be summed.
        """
        if self.raising.shape != other.raising.shape:
            raise RuntimeError(f"Cannot merge attributions {self.raising.shape} with {other.raising.shape}.")
        if self.num_examples + other.num_examples > MOST_MERGED:
            raise MessageError(f"The sites' attributions add up to more than {MOST_MERGED:,} examples.")
        return Importance(
            examples=self.examples + other.examples,
            raising=self.raising + other.raising,
            lowering=self.lowering + other.lowering,
        )

    __add__ = merge

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Importance):
            return NotImplemented
        return np.array_equal(self.to_sums(), other.to_sums())

    __hash__ = None  # type: ignore[assignment]  # arrays have no hash

    def suppressed(self, minimum: int) -> "Importance":
        """Return the same without the classes that fewer than ``minimum`` examples were explained of."""
        enough = self.examples >= minimum
        return Importance(
            examples=np.where(enough, self.examples, 0),
            raising=np.where(enough[:, None], self.raising, 0),
            lowering=np.where(enough[:, None], self.lowering, 0),
        )

    def mean_absolute(self) -> Doubles:
        """Return ``float64 [K, G]``, the mean absolute attribution; NaN for a class without examples."""
        return self._mean(self.raising + self.lowering)

    def mean(self) -> Doubles:
        """Return ``float64 [K, G]``, the mean attribution: positive where it spoke for the class."""
        return self._mean(self.raising - self.lowering)

    def _mean(self, units: Integers) -> Doubles:
        with np.errstate(invalid="ignore", divide="ignore"):
            found: Doubles = units / UNIT / self.examples[:, None]
        return found

    def to_sums(self) -> npt.NDArray[np.uint64]:
        """Return the sums as one vector for the wire, ``uint64 [num_importance_sums(K, G)]``."""
        return np.concatenate([self.examples, self.raising.ravel(), self.lowering.ravel()]).astype(np.uint64)

    @classmethod
    def from_sums(cls, sums: npt.NDArray[np.uint64], *, classes: int, groups: int, most: int) -> Self:
        """Read what ``to_sums`` wrote, or the sum of several, from peers that may lie.

        Args:
            sums: What came in.
            classes: ``K``, as the plan says.
            groups: ``G``, as the plan's contract says.
            most: How many examples there may be.

        Raises:
            MessageError: It has another length or type, claims too many examples, or more than they can add up to.
        """
        if sums.dtype != np.uint64 or sums.shape != (num_importance_sums(classes, groups),):
            raise MessageError(f"The sums of attributions have {sums.size:,} values.")
        limit = min(most, MOST_MERGED)
        examples = sums[:classes]
        if examples.size and (int(examples.max()) > limit or int(examples.astype(object).sum()) > limit):
            raise MessageError(f"The sums of attributions claim more than {limit:,} examples.")
        table = sums[classes:].reshape(2, classes, groups)
        if (table > (examples * np.uint64(int(MOST_ATTRIBUTED) * UNIT))[None, :, None]).any():
            raise MessageError("The sums of attributions are more than the examples can add up to.")
        raising, lowering = table.astype(np.int64)
        return cls(examples=examples.astype(np.int64), raising=raising, lowering=lowering)


def num_importance_sums(classes: int, groups: int) -> int:
    """Return how many values ``to_sums`` gives."""
    return classes * (1 + 2 * groups)
