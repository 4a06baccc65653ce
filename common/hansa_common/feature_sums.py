"""Statistics of features as exact integers that sites can add up, and what follows from the sum.

A float32 is a whole number of units of 2**-172, its square one of 2**-344. Sums of such numbers are integers of a few
hundred bits: whatever the order and the grouping into sites, the merged mean and variance are those of the pooled data,
rounded once. For the wire, and for masks, an integer is cut into limbs of 32 bits in words of 64, so that the sums of
2**31 sites fit. Of a text the features are the tokens that the plan names: 1 where it holds one, else 0. Their sums are
counts of texts, and travel as such.

Shapes: ``V`` values, ``F`` features, ``B`` bins.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from hansa_common.contract import DataContract
from hansa_common.errors import MessageError
from hansa_common.preprocessing_plan import PreprocessingPlan, feature_names, has_tokens, statistic_ranges
from hansa_common.texts import PADDING

Floats = npt.NDArray[np.float32]
Sums = npt.NDArray[np.uint64]

UNIT: Final = 172  # a value is a whole number of 2**-UNIT: 149 bits below one, and 23 more for the whole mantissa
MAX_VALUES: Final = 1 << 38  # of one feature, all sites together
_LIMB: Final = 32  # bits
_TOTAL_LIMBS: Final = 11  # 128 + 172 + 38 bits and a sign
_SQUARES_LIMBS: Final = 20  # twice 128 + 172, and 38
_HEAD: Final = 2  # count, missing
_CHUNK: Final = 1 << 22  # values measured at once; 2**22 mantissas of 24 bits are summed exactly in float64


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureSums:
    """What is known of one feature of some examples.

    Attributes:
        count: Values that are there.
        missing: Values that are not.
        total: Sum of the values, in units of 2**-172.
        squares: Sum of their squares, in units of 2**-344.
        histogram: ``int64 [B]``, values in each of B bins of one width over the contract's range; empty without one.
    """

    count: int
    missing: int
    total: int
    squares: int
    histogram: npt.NDArray[np.int64] = field(repr=False)

    @classmethod
    def of(cls, values: npt.NDArray[np.generic], *, span: tuple[float, float] | None, bins: int) -> Self:
        """Measure ``float32 [V]``; NaN is a missing value.

        Args:
            values: Of one feature.
            span: The range of the histogram; ``None``: there is none.
            bins: B.
        """
        flat = np.asarray(values, dtype=np.float32).reshape(-1)
        present = flat[~np.isnan(flat)]
        total = squares = 0
        histogram = np.zeros(bins if span is not None else 0, dtype=np.int64)
        for start in range(0, len(present), _CHUNK):
            part = present[start : start + _CHUNK].astype(np.float64)
            total, squares = total + _exact_sum(part), squares + _exact_squares(part)
            if span is not None:
                histogram += np.bincount(_bins(part, span, bins), minlength=bins)
        return cls(
            count=len(present), missing=len(flat) - len(present), total=total, squares=squares, histogram=histogram
        )

    def __add__(self, other: "FeatureSums") -> "FeatureSums":
        """Return the sums of both together."""
        return FeatureSums(
            count=self.count + other.count,
            missing=self.missing + other.missing,
            total=self.total + other.total,
            squares=self.squares + other.squares,
            histogram=self.histogram + other.histogram,
        )

    def nothing(self) -> "FeatureSums":
        """Return the sums of no values, with as many bins."""
        return FeatureSums(count=0, missing=0, total=0, squares=0, histogram=np.zeros_like(self.histogram))

    @property
    def mean(self) -> float:
        """Of the values, rounded once.

        Raises:
            RuntimeError: There are none.
        """
        self._require_values()
        return float(Fraction(self.total, self.count << UNIT))

    @property
    def variance(self) -> float:
        """Of the values (divided by their number), rounded once.

        Raises:
            RuntimeError: There are none.
        """
        self._require_values()
        return float(Fraction(self.count * self.squares - self.total**2, self.count**2 << 2 * UNIT))

    def quantile(self, share: float, span: tuple[float, float]) -> float:
        """Return the value below which a share of the values lies, linear within its bin.

        Raises:
            RuntimeError: There are no values, or no histogram.
        """
        self._require_values()
        if not self.histogram.size:
            raise RuntimeError("There is no histogram to read a quantile from.")
        below = np.concatenate([[0], np.cumsum(self.histogram)])
        edges = np.linspace(span[0], span[1], len(self.histogram) + 1)
        wanted = share * self.count
        place = int(np.clip(np.searchsorted(below, wanted, side="left"), 1, len(self.histogram)))
        inside = (wanted - below[place - 1]) / max(1, below[place] - below[place - 1])
        return float(edges[place - 1] + min(1.0, max(0.0, inside)) * (edges[place] - edges[place - 1]))

    def _require_values(self) -> None:
        if not self.count:
            raise RuntimeError("There are no values.")

    def to_words(self) -> Sums:
        """Return ``uint64``, whose sum over sites is that of the merged sums."""
        limbs = [*_limbs(self.total, _TOTAL_LIMBS), *_limbs(self.squares, _SQUARES_LIMBS)]
        head = np.array([self.count, self.missing, *limbs], dtype=np.uint64)
        return np.concatenate([head, self.histogram.astype(np.uint64)])

    @classmethod
    def from_words(cls, words: Sums, *, bins: int) -> Self:
        """Read what ``to_words`` of one or more sites adds up to.

        Raises:
            MessageError: It is no sum of values.
        """
        numbers = [int(word) for word in words[: _HEAD + _TOTAL_LIMBS + _SQUARES_LIMBS]]
        count, missing = numbers[:_HEAD]
        total = _integer(numbers[_HEAD : _HEAD + _TOTAL_LIMBS])
        squares = _integer(numbers[_HEAD + _TOTAL_LIMBS :])
        histogram = words[_HEAD + _TOTAL_LIMBS + _SQUARES_LIMBS :]
        if count > MAX_VALUES or missing > MAX_VALUES or bool((histogram > MAX_VALUES).any()):
            raise MessageError(f"Statistics claim more than {MAX_VALUES:,} values.")
        if bins and int(histogram.astype(object).sum()) != count:
            raise MessageError("A histogram does not add up to the number of values.")
        if squares < 0 or total**2 > count * squares:  # Cauchy and Schwarz
            raise MessageError("A sum of values does not go with the sum of their squares.")
        return cls(count=count, missing=missing, total=total, squares=squares, histogram=histogram.astype(np.int64))


def measure(
    features: npt.NDArray[np.generic],
    preprocessing: PreprocessingPlan,
    contract: DataContract,
    units: npt.NDArray[np.int64] | None = None,
) -> Sums:
    """Return one site's statistics of its training split, as it may send them: ``uint64 [num_words]``.

    What comes from fewer than ``minimum_count`` units is left out. Values are not counted for that: a row of a series
    is in many windows, and one person may have many rows or texts.

    Args:
        features: ``float32 [N, ..., F]``, NaN where a value is missing.
        preprocessing: The plan's.
        contract: The plan's.
        units: Whose each example is, ``[N]``, numbered from 0; each is of its own where left out.
    """
    whose = np.arange(len(features)) if units is None else units
    if has_tokens(contract):
        return _measure_tokens(features, whose, len(feature_names(contract)) + 1, preprocessing.minimum_count)
    names, spans = feature_names(contract), statistic_ranges(preprocessing, contract)
    rows, condition = features.reshape(-1, len(names)), preprocessing.condition
    of_rows = np.repeat(whose, math.prod(features.shape[1:-1]))
    parts = [(rows, of_rows)]
    if condition is not None:
        places = condition.places(rows[:, names.index(condition.column)])
        parts = [(rows[places == place], of_rows[places == place]) for place in range(len(condition.levels))]
    found = []
    for span, ((part, of_part), number) in zip(spans, itertools.product(parts, range(len(names))), strict=True):
        values = part[:, number]
        sums = FeatureSums.of(values, span=span, bins=preprocessing.bins)
        is_told = _count_units(of_part[~np.isnan(values)]) >= preprocessing.minimum_count
        found.append((sums if is_told else sums.nothing()).to_words())
    return np.concatenate(found)


def read(words: Sums, preprocessing: PreprocessingPlan, contract: DataContract) -> tuple[FeatureSums, ...]:
    """Return what ``measure`` of one or more sites adds up to, a feature each.

    Raises:
        MessageError: It is none of statistics.
    """
    if len(words) != num_words(preprocessing, contract):
        raise MessageError(f"Statistics have {len(words):,} words; the plan asks for other ones.")
    if has_tokens(contract):
        return _read_tokens(words)
    found, start = [], 0
    for span in statistic_ranges(preprocessing, contract):
        bins = preprocessing.bins if span is not None else 0
        size = _size(bins)
        found.append(FeatureSums.from_words(words[start : start + size], bins=bins))
        start += size
    return tuple(found)


def num_words(preprocessing: PreprocessingPlan, contract: DataContract) -> int:
    """Return how many words ``measure`` gives."""
    if has_tokens(contract):
        return len(feature_names(contract)) + 1
    return sum(
        _size(preprocessing.bins if span is not None else 0) for span in statistic_ranges(preprocessing, contract)
    )


def are_declared(
    found: Sequence[FeatureSums], preprocessing: PreprocessingPlan, contract: DataContract, examples: int
) -> bool:
    """Tell whether statistics are of the training split that a site declared: by its size they weigh in the mean.

    Args:
        found: Of the site, a feature each; nothing for one of which it has too few values.
        preprocessing: The plan's.
        contract: The plan's.
        examples: Of the site's training split.
    """
    least = preprocessing.minimum_count
    if has_tokens(contract):
        texts = {sums.count for sums in found}
        return texts in ({0}, {examples}) and all(not sums.total or sums.total >> UNIT >= least for sums in found)
    if not all(not sums.count or sums.count >= least for sums in found):
        return False
    features = len(feature_names(contract))
    values = examples * (math.prod(contract.feature_shape) // features)
    if preprocessing.condition is None:
        return all(sums.count + sums.missing in (0, values) for sums in found)
    # in which conditions the rows are is the site's own affair, and rare ones are left out
    return all(sum(sums.count for sums in found[number::features]) <= values for number in range(features))


def _measure_tokens(ids: npt.NDArray[np.generic], whose: npt.NDArray[np.int64], size: int, minimum: int) -> Sums:
    """Return how many texts there are, and how many of them hold each token: ``uint64 [size]``, by the token's id.

    The id of the padding counts all texts. What is in texts of fewer than ``minimum`` units is 0, for it would tell of
    single ones.

    Args:
        ids: ``float32 [N, T]``.
        whose: Each text is, ``[N]``.
        size: Ids there are.
        minimum: Least number of units.
    """
    ordered = np.sort(ids.astype(np.int64), axis=1)
    is_first = np.ones(ordered.shape, dtype=np.bool_)
    is_first[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    texts, _places = np.nonzero(is_first)
    held = ordered[is_first]
    counts = np.bincount(held, minlength=size)
    units = np.bincount(np.unique(whose[texts] * size + held) % size, minlength=size)
    counts[PADDING], units[PADDING] = len(ids), _count_units(whose)
    return np.where(units >= minimum, counts, 0).astype(np.uint64)


def _count_units(whose: npt.NDArray[np.int64]) -> int:
    return int(np.count_nonzero(np.bincount(whose)))


def _read_tokens(words: Sums) -> tuple[FeatureSums, ...]:
    """Return for each token, the unknown ones first, the sums of a feature that is 1 in a text that holds it, else 0.

    Raises:
        MessageError: More texts hold a token than there are.
    """
    texts, *held = (int(word) for word in words)
    if texts > MAX_VALUES or max(held) > texts:
        raise MessageError("More texts hold a token than there are.")
    none = np.zeros(0, dtype=np.int64)
    return tuple(
        FeatureSums(count=texts, missing=0, total=count << UNIT, squares=count << 2 * UNIT, histogram=none)
        for count in held
    )


def _size(bins: int) -> int:
    return _HEAD + _TOTAL_LIMBS + _SQUARES_LIMBS + bins


def _bins(values: npt.NDArray[np.float64], span: tuple[float, float], bins: int) -> npt.NDArray[np.int64]:
    """Return the bin of each value; the last one holds the end of the range, and what rounding puts beyond it."""
    places = np.floor((values - span[0]) / (span[1] - span[0]) * bins)
    return np.clip(places, 0, bins - 1).astype(np.int64)


def _split(values: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Return whole mantissas of at most 24 bits and shifts: ``value = mantissa * 2**(shift - UNIT)``, exactly."""
    fractions, exponents = np.frexp(values)
    return fractions * 2.0**24, exponents.astype(np.int64) + (UNIT - 24)


def _exact_sum(values: npt.NDArray[np.float64]) -> int:
    mantissas, shifts = _split(values)
    return _shifted(shifts, mantissas, 1)


def _exact_squares(values: npt.NDArray[np.float64]) -> int:
    mantissas, shifts = _split(values)
    high, low = np.divmod(mantissas * mantissas, 2.0**24)  # 48 bits, exact in float64
    return (_shifted(shifts, high, 2) << 24) + _shifted(shifts, low, 2)


def _shifted(shifts: npt.NDArray[np.int64], weights: npt.NDArray[np.float64], power: int) -> int:
    """Return the sum of ``weight << power * shift``; equal shifts are added in float64, whose 53 bits hold them."""
    if not len(shifts):
        return 0
    sums = np.bincount(shifts, weights=weights)
    return sum(int(sums[shift]) << power * int(shift) for shift in np.flatnonzero(sums))


def _limbs(value: int, count: int) -> list[int]:
    """Cut an integer, modulo 2**(32 count), into limbs, lowest first."""
    value %= 1 << _LIMB * count
    return [value >> _LIMB * place & (1 << _LIMB) - 1 for place in range(count)]


def _integer(limbs: list[int]) -> int:
    """Put a sum of limbs together, and read the sign back."""
    whole = 1 << _LIMB * len(limbs)
    value = sum(limb << _LIMB * place for place, limb in enumerate(limbs)) % whole
    return value - whole if value >= whole >> 1 else value
