"""Counts: what is known of one model on one set of examples, as integers that sites can add up exactly.

One implementation for each kind of target. Sums of real numbers are fixed-point integers, so the merge of the sites'
counts is bit for bit what one site with all examples would have counted, in whatever order.

Evolution: arrays are never renamed and never change their meaning; unknown arrays are refused.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Protocol, Self, TypeVar

import numpy as np
import numpy.typing as npt

from hansa_common.errors import MessageError
from hansa_common.metrics.bins import Floats, Integers

LOSS_ONE = 1 << 20  # units of one nat
MAX_LOSS = float(1 << 20)  # nats; what a single example can add to the sum
MAX_EXAMPLES = 1 << 30  # in one message
MAX_MERGED_EXAMPLES = 1 << 38  # keeps every int64 sum below 2**63
MAX_INT64 = 2**63 - 1
INT64 = np.dtype("<i8")
LIMB = 32  # bits; a sum of the limbs of 2**31 sites fits into 64
Arrays = Mapping[str, npt.NDArray[np.generic]]
Sums = npt.NDArray[np.uint64]

C = TypeVar("C", bound="Counts")


class Counts(ABC):
    """What is known of one model on one set of examples."""

    __slots__ = ()

    @property
    @abstractmethod
    def num_examples(self) -> int:
        """``N``."""

    @property
    @abstractmethod
    def mean_loss(self) -> float | None:
        """The mean loss; ``None`` where there is nothing to take the mean of."""

    @property
    @abstractmethod
    def has_histograms(self) -> bool:
        """Whether figures that need the distribution of scores can be computed."""

    @abstractmethod
    def merge(self, other: "Counts") -> Self:
        """Return the counts of both sets of examples together; exact, associative and commutative.

        Raises:
            RuntimeError: They are counts of another kind.
            MessageError: Together they claim more examples than can be counted.
        """

    def __add__(self, other: "Counts") -> Self:
        """Merge."""
        return self.merge(other)

    @abstractmethod
    def to_arrays(self) -> dict[str, Integers]:
        """Return the counts as little-endian int64 arrays for the wire."""

    @abstractmethod
    def to_sums(self) -> Sums:
        """Return the counts as one ``uint64`` vector whose sum over sites is that of the merged counts."""

    @abstractmethod
    def describe(self) -> str:
        """Return what kind of counts these are, for a message."""


class CountsKind(Protocol):
    """What a plan's counts are: how those that come in are read."""

    def zero(self, *, histograms: bool) -> Counts:
        """Return the counts of no examples, the neutral element of ``merge``."""

    def from_arrays(self, arrays: Arrays) -> Counts:
        """Read what ``Counts.to_arrays`` wrote, from a peer that may lie.

        Raises:
            MessageError: An array is missing, unknown, of another type or shape, negative or too large, or the arrays
                contradict each other.
        """

    def from_sums(self, sums: Sums, *, histograms: bool) -> Counts:
        """Read a sum of ``Counts.to_sums`` over sites, any of which may have lied.

        Raises:
            MessageError: The sum is none of counts: of another length, too large, or it contradicts itself.
        """

    def num_sums(self, *, histograms: bool) -> int:
        """Return how many values ``Counts.to_sums`` gives."""


def require_same(mine: C, other: Counts) -> C:
    """Return the other counts if they can be merged with these.

    Raises:
        RuntimeError: They are of another kind.
        MessageError: Together they claim more examples than can be counted.
    """
    if not isinstance(other, type(mine)) or mine.describe() != other.describe():
        raise RuntimeError(f"Cannot merge {mine.describe()} with {other.describe()}.")
    if mine.num_examples + other.num_examples > MAX_MERGED_EXAMPLES:
        raise MessageError(f"The sites' counts add up to more than {MAX_MERGED_EXAMPLES:,} examples.")
    return other


def read_array(arrays: Arrays, name: str, shape: tuple[int | None, ...], *, limit: int) -> Integers:
    """Return one array as int64, each value in ``0..limit``; ``None`` in a shape stands for any length.

    Raises:
        MessageError: It is of another type or shape, or a value is outside.
    """
    array = arrays[name]
    if array.dtype != INT64:
        raise MessageError(f"'{name}' is {array.dtype.str}; expected little-endian int64.")
    fits = array.ndim == len(shape) and all(want in (None, have) for want, have in zip(shape, array.shape, strict=True))
    if not fits:
        raise MessageError(f"'{name}' has the shape {array.shape}; expected {shape}.")
    values = array.astype(np.int64)
    if values.size and (values.min() < 0 or values.max() > limit):
        raise MessageError(f"'{name}' holds a value outside 0..{limit}.")
    return values


def require_sums(sums: Sums, length: int) -> None:
    """Return if a masked sum has the right length.

    Raises:
        MessageError: It has another one.
    """
    if sums.shape != (length,):
        raise MessageError(f"The sum of the counts has {sums.size:,} values.")


def loss_units(losses: Floats) -> int:
    """Return the sum of losses in units of 2**-20, each cut off at ``MAX_LOSS``."""
    return int(np.rint(np.minimum(losses.astype(np.float64), MAX_LOSS) * LOSS_ONE).astype(np.int64).sum())


def occupied(histogram: Integers) -> Integers:
    """Return the occupied cells of a histogram, ``int64 [cells, 2]``: index in the flattened one, count; ascending."""
    cells = np.flatnonzero(histogram)
    return np.stack((cells, histogram.ravel()[cells]), axis=1).astype(INT64)


def read_cells(arrays: Arrays, name: str, shape: tuple[int, int]) -> Integers:
    """Return the dense histogram of what ``occupied`` wrote.

    Raises:
        MessageError: Cells are outside, out of order or empty.
    """
    size = shape[0] * shape[1]
    cells, counts = read_array(arrays, name, (None, 2), limit=max(MAX_EXAMPLES, size)).T
    if cells.size and (cells[-1] >= size or (np.diff(cells) <= 0).any()):
        raise MessageError(f"'{name}' names cells that do not ascend within {shape[0]} x {shape[1]}.")
    if (counts == 0).any():
        raise MessageError(f"'{name}' lists an empty cell.")
    histogram = np.zeros(shape, np.int64)
    histogram.ravel()[cells] = counts
    return histogram


def sum_of_squares(values: Integers) -> int:
    """Return the exact sum of squares of int64 values as a Python integer."""
    exact = values.astype(object)
    return int(exact @ exact) if values.size else 0


CONSTANT = {"constant": True}
"""Metadata of a field of ``Moments`` that is no sum: it comes from the plan and is the same at every site."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Moments(Counts):
    """Counts that are a list of sums, each a non-negative integer of any size.

    On the wire a sum is ``LIMBS`` limbs of 32 bits, the lowest first. Each limb is summed by itself under masks, and
    the carries are done afterwards.
    """

    LIMBS: ClassVar[int] = 6  # 192 bits: the sum of 2**38 fourth powers of 2**31

    num_examples: int = 0

    @property
    def has_histograms(self) -> bool:
        """Sums have none."""
        return False

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Return the names of the sums, in the order of the wire."""
        return tuple(field.name for field in fields(cls) if field.metadata != CONSTANT)

    def check(self) -> None:
        """Return if some examples could have these sums, each of which is at least 0.

        Raises:
            MessageError: They contradict each other.
        """

    def merge(self, other: Counts) -> Self:
        """See ``Counts``."""
        theirs = require_same(self, other)
        return replace(self, **{name: getattr(self, name) + getattr(theirs, name) for name in self.names()})

    def _limbs(self) -> npt.NDArray[np.int64]:
        mask, places = (1 << LIMB) - 1, range(self.LIMBS)
        return np.array(
            [[(getattr(self, name) >> (LIMB * place)) & mask for place in places] for name in self.names()], INT64
        )

    def to_arrays(self) -> dict[str, Integers]:
        """Return ``sums [names, LIMBS]``."""
        return {"sums": self._limbs()}

    def to_sums(self) -> Sums:
        """Return the limbs of all sums."""
        return self._limbs().ravel().astype(np.uint64)

    def of_limbs(self, limbs: npt.NDArray[Any], *, most: int) -> Self:
        """Return counts like these with other sums: those of limbs, normalised or added up over sites.

        Raises:
            MessageError: No examples have these sums, or more than ``most``.
        """
        rows = limbs.reshape(len(self.names()), self.LIMBS).tolist()
        values = [sum(limb << (LIMB * place) for place, limb in enumerate(row)) for row in rows]
        counts = replace(self, **dict(zip(self.names(), values, strict=True)))
        if counts.num_examples > most:
            raise MessageError(f"The counts claim {counts.num_examples:,} examples; allowed are {most:,}.")
        if counts.num_examples == 0 and any(values):
            raise MessageError("The counts claim sums over no examples.")
        counts.check()
        return counts


@dataclass(frozen=True, slots=True, kw_only=True)
class MomentsKind:
    """How counts that are a list of sums are read.

    Attributes:
        empty: Counts of no examples, with the plan's constants.
    """

    empty: Moments

    def zero(self, *, histograms: bool) -> Moments:
        """Return the counts of no examples."""
        del histograms
        return self.empty

    def from_arrays(self, arrays: Arrays) -> Moments:
        """See ``CountsKind``."""
        if set(arrays) != {"sums"}:
            raise MessageError("The counts hold other arrays than 'sums'.")
        limbs = read_array(arrays, "sums", (len(self.empty.names()), self.empty.LIMBS), limit=(1 << LIMB) - 1)
        return self.empty.of_limbs(limbs, most=MAX_EXAMPLES)

    def from_sums(self, sums: Sums, *, histograms: bool) -> Moments:
        """See ``CountsKind``."""
        require_sums(sums, self.num_sums(histograms=histograms))
        return self.empty.of_limbs(sums, most=MAX_MERGED_EXAMPLES)

    def num_sums(self, *, histograms: bool) -> int:
        """See ``CountsKind``."""
        del histograms
        return len(self.empty.names()) * self.empty.LIMBS
