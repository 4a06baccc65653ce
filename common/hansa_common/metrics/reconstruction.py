"""Counts of how badly a model reconstructs examples, and of how that tells anomalies from what is usual.

The error of an example is the mean squared error of its features, counted as a loss is: in units of 2**-20. Where the
plan's contract says which examples are anomalies, their errors are summed apart, and histograms of the errors give
ROC AUC and average precision. Error bins are equally spaced in the logarithm: 1,024 to a factor of two.

Evolution: never change a number of this file. Counts of other bins cannot be merged.
"""

from dataclasses import dataclass, field
from typing import Final, Self

import numpy as np

from hansa_common.errors import MessageError
from hansa_common.metrics.bins import Floats, Integers
from hansa_common.metrics.counts import (
    INT64,
    LOSS_ONE,
    MAX_EXAMPLES,
    MAX_INT64,
    MAX_LOSS,
    MAX_MERGED_EXAMPLES,
    Arrays,
    Counts,
    Sums,
    loss_units,
    occupied,
    read_array,
    read_cells,
    require_same,
    require_sums,
)

ERROR_BINS: Final = 1 << 16
LOWEST_ERROR: Final = -40.0  # as a power of two; what is less is in the first bin
HIGHEST_ERROR: Final = 24.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ReconstructionCounts(Counts):
    """What is known of one model on one set of examples.

    Attributes:
        examples: How many are normal, and how many anomalies; without labels all count as normal.
        units: Sums of their errors in units of 2**-20.
        labelled: Whether the contract tells anomalies.
        histogram: ``int64 [2, ERROR_BINS]`` of the errors of normal examples and of anomalies; ``None`` without labels
            and where only sums were asked for.
    """

    examples: tuple[int, int]
    units: tuple[int, int]
    labelled: bool
    histogram: Integers | None = field(default=None, repr=False)

    @classmethod
    def zero(cls, *, labelled: bool, histograms: bool) -> Self:
        """Return the counts of no examples."""
        histogram = np.zeros((2, ERROR_BINS), np.int64) if labelled and histograms else None
        return cls(examples=(0, 0), units=(0, 0), labelled=labelled, histogram=histogram)

    @classmethod
    def of(cls, errors: Floats, anomalies: Integers, *, labelled: bool, histograms: bool) -> Self:
        """Count a model's errors.

        Args:
            errors: ``[N]``, not negative.
            anomalies: ``int64 [N]``, 1 for an anomaly, else 0.
            labelled: Whether the contract tells anomalies.
            histograms: Whether ROC AUC and average precision are wanted.

        Raises:
            ValueError: A shape does not fit, or an error is NaN, infinite or negative.
        """
        if errors.shape != anomalies.shape:
            raise ValueError(f"There are errors {errors.shape} and labels {anomalies.shape}.")
        if not np.isfinite(errors).all() or (errors < 0).any():
            raise ValueError("An error is NaN, infinite or negative.")
        parts = [errors[anomalies == kind] for kind in (0, 1)]
        histogram = None
        if labelled and histograms:
            histogram = np.stack([np.bincount(error_bin(part), minlength=ERROR_BINS) for part in parts])
        return cls(
            examples=(len(parts[0]), len(parts[1])),
            units=(loss_units(parts[0]), loss_units(parts[1])),
            labelled=labelled,
            histogram=histogram,
        )

    @property
    def num_examples(self) -> int:
        """``N``."""
        return sum(self.examples)

    @property
    def has_histograms(self) -> bool:
        """Whether ROC AUC and average precision can be computed."""
        return self.histogram is not None

    @property
    def mean_loss(self) -> float | None:
        """The mean error of normal examples."""
        return self.units[0] / LOSS_ONE / self.examples[0] if self.examples[0] else None

    def describe(self) -> str:
        """See ``Counts``."""
        kind = "labelled" if self.labelled else "unlabelled"
        return f"counts of {kind} reconstructions {'with' if self.has_histograms else 'without'} histograms"

    def merge(self, other: Counts) -> "ReconstructionCounts":
        """See ``Counts``."""
        theirs = require_same(self, other)
        histogram = None
        if self.histogram is not None and theirs.histogram is not None:
            histogram = self.histogram + theirs.histogram
        return ReconstructionCounts(
            examples=(self.examples[0] + theirs.examples[0], self.examples[1] + theirs.examples[1]),
            units=(self.units[0] + theirs.units[0], self.units[1] + theirs.units[1]),
            labelled=self.labelled,
            histogram=histogram,
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ReconstructionCounts):
            return NotImplemented
        same = (self.examples, self.units, self.describe()) == (other.examples, other.units, other.describe())
        return same and (self.histogram is None or np.array_equal(self.histogram, other.histogram))  # type: ignore[arg-type]

    __hash__ = None  # type: ignore[assignment]  # arrays have no hash

    def _sums(self) -> Integers:
        return np.array([self.examples, [min(units, MAX_INT64) for units in self.units]], INT64)

    def to_arrays(self) -> dict[str, Integers]:
        """Return ``sums [2, 2]`` (examples and errors of normal examples and anomalies) and ``errors [cells, 2]``."""
        arrays = {"sums": self._sums()}
        return arrays if self.histogram is None else arrays | {"errors": occupied(self.histogram)}

    def to_sums(self) -> Sums:
        """Return the sums and, where there is one, the histogram row by row."""
        parts = [self._sums().ravel()] + ([] if self.histogram is None else [self.histogram.ravel()])
        return np.concatenate(parts).astype(np.uint64)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReconstructionKind:
    """How these counts are read.

    Attributes:
        labelled: Whether the contract tells anomalies.
    """

    labelled: bool

    def zero(self, *, histograms: bool) -> ReconstructionCounts:
        """Return the counts of no examples."""
        return ReconstructionCounts.zero(labelled=self.labelled, histograms=histograms)

    def from_arrays(self, arrays: Arrays) -> ReconstructionCounts:
        """See ``CountsKind``."""
        if set(arrays) not in ({"sums"}, {"sums", "errors"} if self.labelled else {"sums"}):
            raise MessageError("The counts hold other arrays than 'sums' and, with labels, 'errors'.")
        histogram = read_cells(arrays, "errors", (2, ERROR_BINS)) if "errors" in arrays else None
        return self._read(read_array(arrays, "sums", (2, 2), limit=MAX_INT64), histogram, most=MAX_EXAMPLES)

    def from_sums(self, sums: Sums, *, histograms: bool) -> ReconstructionCounts:
        """See ``CountsKind``."""
        require_sums(sums, self.num_sums(histograms=histograms))
        if int(sums.max()) > MAX_INT64:
            raise MessageError("The sum of the counts holds a value that no counts add up to.")
        values = sums.astype(np.int64)
        histogram = values[4:].reshape(2, ERROR_BINS) if values.size > 4 else None  # noqa: PLR2004 sums [2, 2]
        if histogram is not None and int(histogram.max()) > MAX_MERGED_EXAMPLES:
            raise MessageError("The sum of the counts holds a value that no counts add up to.")
        return self._read(values[:4].reshape(2, 2), histogram, most=MAX_MERGED_EXAMPLES)

    def num_sums(self, *, histograms: bool) -> int:
        """See ``CountsKind``."""
        return 4 + (2 * ERROR_BINS if histograms and self.labelled else 0)

    def _read(self, sums: Integers, histogram: Integers | None, *, most: int) -> ReconstructionCounts:
        (normal, anomalous), (usual, unusual) = sums.tolist()
        if normal + anomalous > most:
            raise MessageError(f"The counts claim {normal + anomalous:,} examples; allowed are {most:,}.")
        if anomalous and not self.labelled:
            raise MessageError("The counts claim anomalies, and the contract does not tell them.")
        limit = int(MAX_LOSS) * LOSS_ONE
        if usual > normal * limit or unusual > anomalous * limit:
            raise MessageError("The counts hold a sum of errors that no examples have.")
        if histogram is not None and histogram.sum(axis=1).tolist() != [normal, anomalous]:
            raise MessageError("'errors' and 'sums' disagree on how many examples there are.")
        return ReconstructionCounts(
            examples=(normal, anomalous), units=(usual, unusual), labelled=self.labelled, histogram=histogram
        )


def error_bin(errors: Floats) -> Integers:
    """Return the bin of each error, ``int64``, in the shape of ``errors``."""
    logarithms = np.log2(np.maximum(errors.astype(np.float64), 2.0**LOWEST_ERROR))
    places = (logarithms - LOWEST_ERROR) * (ERROR_BINS / (HIGHEST_ERROR - LOWEST_ERROR))
    bins: Integers = np.clip(np.floor(places), 0, ERROR_BINS - 1).astype(np.int64)
    return bins
