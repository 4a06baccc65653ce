"""Counts of how a classifier did, which merge across sites exactly: integers only, so no order of merging matters.

Shapes: ``N`` examples, ``K`` classes, ``B = score_bins(K)`` score bins, ``M`` = 15 calibration bins.

A loss is counted in units of 2**-20 (9.5e-7) up to 2**20 (1,048,576) an example, where it saturates; a confidence in
units of 2**-24.

On the wire a histogram is a list of its occupied cells, because a site has far fewer test examples than cells. The
histograms of a site with few examples say nearly as much as a list of their scores; confusion and loss do not.

Evolution: arrays are never renamed and never change their meaning; unknown arrays are refused.
"""

from dataclasses import dataclass, field
from typing import Self

import numpy as np
import numpy.typing as npt

from hansa_common.errors import MessageError
from hansa_common.metrics.bins import (
    CALIBRATION_BINS,
    CONFIDENCE_ONE,
    Floats,
    Integers,
    confidence_bin,
    fixed_confidence,
    score_bin,
    score_bins,
)
from hansa_common.metrics.counts import (
    INT64,
    LOSS_ONE,
    MAX_EXAMPLES,
    MAX_INT64,
    MAX_LOSS,
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
from hansa_common.metrics.decisions import DECISION_BINS, decision_histograms

_ALWAYS = frozenset({"confusion", "loss"})
_WITH_HISTOGRAMS = frozenset({"positives", "negatives", "calibration"})


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ClassificationCounts(Counts):
    """What is known of one model on one set of examples.

    Attributes:
        confusion: ``int64 [K, K]``, rows are true classes, columns predicted ones (the most probable class).
        loss_units: Sum of the losses in units of 2**-20.
        positives: ``int64 [K, B]``; row ``k`` is the histogram of class ``k``'s probability over the examples of class
            ``k``. ``None`` where only confusion and loss were asked for; so are the next two.
        negatives: ``int64 [K, B]``; the same over the examples of all other classes.
        calibration: ``int64 [M, 3]``; for each bin of the most probable class's probability: examples, sum of that
            probability in units of 2**-24, examples where the class is right.
        decisions: ``int64 [2 R, D]``, scores by threshold, over all and in groups: see ``decisions``. ``None`` where
            the plan neither weighs errors by cost nor compares groups, and without histograms.
    """

    confusion: Integers = field(repr=False)
    loss_units: int
    positives: Integers | None = field(default=None, repr=False)
    negatives: Integers | None = field(default=None, repr=False)
    calibration: Integers | None = field(default=None, repr=False)
    decisions: Integers | None = field(default=None, repr=False)

    @classmethod
    def zero(cls, classes: int, *, histograms: bool = True, rows: int = 0) -> Self:
        """Return the counts of no examples, the neutral element of ``merge``; ``rows`` is R, 0 without decisions."""
        confusion = np.zeros((classes, classes), np.int64)
        if not histograms:
            return cls(confusion=confusion, loss_units=0)
        shape = (classes, score_bins(classes))
        return cls(
            confusion=confusion,
            loss_units=0,
            positives=np.zeros(shape, np.int64),
            negatives=np.zeros(shape, np.int64),
            calibration=np.zeros((CALIBRATION_BINS, 3), np.int64),
            decisions=np.zeros((2 * rows, DECISION_BINS), np.int64) if rows else None,
        )

    @classmethod
    def of(
        cls,
        probabilities: Floats,
        labels: Integers,
        losses: Floats,
        *,
        histograms: bool = True,
        members: npt.NDArray[np.bool_] | None = None,
    ) -> Self:
        """Count a model's predictions.

        Args:
            probabilities: ``float32 [N, K]``, the softmax of the logits.
            labels: ``int64 [N]``, each in ``0..K-1``.
            losses: ``float32`` or ``float64`` ``[N]``, one for each example, not negative.
            histograms: Whether ROC AUC and calibration are wanted too.
            members: ``bool [N, G]``, who is in which group, where decisions are wanted too; K is 2 then.

        Raises:
            ValueError: A shape does not fit, a label is out of range, a probability is not in 0..1, a loss is negative,
                or a value is NaN or infinite.
        """
        _check(probabilities, labels, losses)
        classes = probabilities.shape[1]
        predicted = probabilities.argmax(axis=1)
        confusion = _count(labels * classes + predicted, (classes, classes))
        units = loss_units(losses)
        if not histograms:
            return cls(confusion=confusion, loss_units=units)
        positives, negatives = _histograms(probabilities, labels)
        return cls(
            confusion=confusion,
            loss_units=units,
            positives=positives,
            negatives=negatives,
            calibration=_calibration(np.minimum(probabilities.max(axis=1), 1.0), predicted == labels),
            decisions=None if members is None else decision_histograms(probabilities[:, 1], labels, members),
        )

    @property
    def classes(self) -> int:
        """``K``."""
        return len(self.confusion)

    @property
    def num_examples(self) -> int:
        """``N``."""
        return int(self.confusion.sum())

    @property
    def loss_sum(self) -> float:
        """Sum of the losses, in nats."""
        return self.loss_units / LOSS_ONE

    @property
    def has_histograms(self) -> bool:
        """Whether ROC AUC and calibration can be computed."""
        return self.positives is not None

    def histograms(self) -> tuple[Integers, Integers, Integers]:
        """Return positives, negatives and calibration.

        Raises:
            RuntimeError: These counts were made without them.
        """
        if self.positives is None or self.negatives is None or self.calibration is None:
            raise RuntimeError("These counts hold confusion and loss only; count with histograms=True.")
        return self.positives, self.negatives, self.calibration

    @property
    def mean_loss(self) -> float | None:
        """The mean loss in nats."""
        return self.loss_sum / self.num_examples if self.num_examples else None

    def merge(self, other: Counts) -> "ClassificationCounts":
        """Return the counts of both sets of examples together; exact, associative and commutative.

        Raises:
            RuntimeError: The numbers of classes differ, or one has histograms and the other has not.
            MessageError: Together they claim more examples than can be counted.
        """
        other = require_same(self, other)
        confusion, units = self.confusion + other.confusion, self.loss_units + other.loss_units
        if not self.has_histograms:
            return ClassificationCounts(confusion=confusion, loss_units=units)
        positives, negatives, calibration = (
            mine + theirs for mine, theirs in zip(self.histograms(), other.histograms(), strict=True)
        )
        return ClassificationCounts(
            confusion=confusion,
            loss_units=units,
            positives=positives,
            negatives=negatives,
            calibration=calibration,
            decisions=None if self.decisions is None or other.decisions is None else self.decisions + other.decisions,
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ClassificationCounts):
            return NotImplemented
        return (self.describe(), self.loss_units) == (other.describe(), other.loss_units) and all(
            np.array_equal(mine, theirs) for mine, theirs in zip(self._dense(), other._dense(), strict=True)
        )

    __hash__ = None  # type: ignore[assignment]  # arrays have no hash

    def _dense(self) -> tuple[Integers, ...]:
        parts = (self.confusion, *self.histograms()) if self.has_histograms else (self.confusion,)
        return parts if self.decisions is None else (*parts, self.decisions)

    def describe(self) -> str:
        """Return what kind of counts these are, for a message."""
        decided = "" if self.decisions is None else f" and {len(self.decisions) // 2} rows of decisions"
        return f"counts of {self.classes} classes {'with' if self.has_histograms else 'without'} histograms{decided}"

    def to_arrays(self) -> dict[str, Integers]:
        """Return the counts as little-endian int64 arrays for the wire.

        ``confusion [K, K]``, ``loss [1]``, and with histograms ``positives [cells, 2]`` and ``negatives [cells, 2]``
        (index in the flattened histogram, count; occupied cells only, ascending) and ``calibration [M, 3]``. A sum of
        losses beyond int64 (8.8e12 nats) saturates.
        """
        arrays = {
            "confusion": self.confusion.astype(INT64),
            "loss": np.array([min(self.loss_units, MAX_INT64)], INT64),
        }
        if self.has_histograms:
            positives, negatives, calibration = self.histograms()
            arrays |= {
                "positives": occupied(positives),
                "negatives": occupied(negatives),
                "calibration": calibration.astype(INT64),
            }
        if self.decisions is not None:
            arrays["decisions"] = occupied(self.decisions)
        return arrays

    def to_sums(self) -> Sums:
        """Return the counts as one ``uint64`` vector whose sum over sites is that of the merged counts.

        Confusion, loss, and with histograms positives, negatives and calibration, each row by row; ``num_sums`` values.
        """
        parts = [self.confusion.ravel(), np.array([min(self.loss_units, MAX_INT64)], np.int64)]
        if self.has_histograms:
            parts += [part.ravel() for part in self._dense()[1:]]
        return np.concatenate(parts).astype(np.uint64)

    @classmethod
    def from_sums(cls, sums: Sums, classes: int, *, histograms: bool, rows: int = 0) -> Self:
        """Read a sum of ``to_sums`` over sites, any of which may have lied.

        Args:
            sums: ``uint64 [num_sums]``.
            classes: ``K``, as the plan says.
            histograms: Whether the sites counted with them.
            rows: R, 0 without decisions.

        Raises:
            MessageError: The sum is none of counts: of another length, too large, or it contradicts itself.
        """
        require_sums(sums, num_sums(classes, histograms=histograms, rows=rows))
        if sums.size and int(sums.max()) > MAX_INT64:
            raise MessageError("The sum of the counts holds a value that no counts add up to.")
        values = sums.astype(np.int64)
        square, cells = classes * classes, classes * score_bins(classes)
        arrays = {"confusion": values[:square].reshape(classes, classes), "loss": values[square : square + 1]}
        if histograms:
            ends = np.cumsum([cells, cells, 3 * CALIBRATION_BINS])
            positives, negatives, calibration, decisions = np.split(values[square + 1 :], ends)
            arrays |= {
                "positives": occupied(positives),
                "negatives": occupied(negatives),
                "calibration": calibration.reshape(CALIBRATION_BINS, 3),
            }
            arrays |= {"decisions": occupied(decisions)} if rows else {}
        return cls.from_arrays(arrays, classes, rows=rows)

    @classmethod
    def from_arrays(cls, arrays: Arrays, classes: int, *, rows: int = 0) -> Self:
        """Read what ``to_arrays`` wrote, from a peer that may lie.

        Args:
            arrays: The message's arrays.
            classes: ``K``, as the plan says.
            rows: R, 0 without decisions.

        Raises:
            MessageError: An array is missing, unknown, of another type or shape, negative or too large, or the arrays
                contradict each other.
        """
        further = _WITH_HISTOGRAMS | ({"decisions"} if rows else set())
        if set(arrays) not in (_ALWAYS, _ALWAYS | further):
            raise MessageError("The counts hold other arrays than 'confusion', 'loss' and, all or none, histograms.")
        confusion = read_array(arrays, "confusion", (classes, classes), limit=MAX_EXAMPLES)
        total = int(confusion.sum())
        if total > MAX_EXAMPLES:
            raise MessageError(f"The counts claim {total:,} examples; allowed are {MAX_EXAMPLES:,}.")
        units = int(read_array(arrays, "loss", (1,), limit=MAX_INT64)[0])
        if units > total * int(MAX_LOSS) * LOSS_ONE:
            raise MessageError(f"'loss' holds a sum of {units / LOSS_ONE:g} nats for {total:,} examples.")
        if "positives" not in arrays:
            return cls(confusion=confusion, loss_units=units)
        true = confusion.sum(axis=1)
        return cls(
            confusion=confusion,
            loss_units=units,
            positives=_read_histogram(arrays, "positives", true),
            negatives=_read_histogram(arrays, "negatives", total - true),
            calibration=_read_calibration(arrays, total=total, correct=int(np.trace(confusion))),
            decisions=_read_decisions(arrays, true=true, rows=rows) if rows else None,
        )


def of_classes(counts: Counts) -> ClassificationCounts:
    """Return counts as those of a classifier.

    Raises:
        TypeError: They are others; the caller's bug.
    """
    if not isinstance(counts, ClassificationCounts):
        raise TypeError(f"These are {counts.describe()}, not of a classifier.")
    return counts


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassificationKind:
    """How the counts of a classifier are read.

    Attributes:
        classes: ``K``.
        rows: R, everybody and the groups; 0 where the plan neither weighs errors by cost nor compares groups.
    """

    classes: int
    rows: int = 0

    def zero(self, *, histograms: bool) -> ClassificationCounts:
        """Return the counts of no examples."""
        return ClassificationCounts.zero(self.classes, histograms=histograms, rows=self.rows)

    def from_arrays(self, arrays: Arrays) -> ClassificationCounts:
        """See ``CountsKind``."""
        return ClassificationCounts.from_arrays(arrays, self.classes, rows=self.rows)

    def from_sums(self, sums: Sums, *, histograms: bool) -> ClassificationCounts:
        """See ``CountsKind``."""
        return ClassificationCounts.from_sums(sums, self.classes, histograms=histograms, rows=self.rows)

    def num_sums(self, *, histograms: bool) -> int:
        """See ``CountsKind``."""
        return num_sums(self.classes, histograms=histograms, rows=self.rows)


def num_sums(classes: int, *, histograms: bool, rows: int = 0) -> int:
    """Return how many values ``to_sums`` gives for ``K`` classes and ``R`` rows of decisions."""
    dense = 2 * classes * score_bins(classes) + 3 * CALIBRATION_BINS + 2 * rows * DECISION_BINS if histograms else 0
    return classes * classes + 1 + dense


def _check(probabilities: Floats, labels: Integers, losses: Floats) -> None:
    if probabilities.ndim != 2 or probabilities.shape[1] < 2:  # noqa: PLR2004  # [N, K], and one class needs no model
        raise ValueError(f"Probabilities have the shape {probabilities.shape}; expected [N, K] with K >= 2.")
    examples, classes = probabilities.shape
    if labels.shape != (examples,) or losses.shape != (examples,):
        raise ValueError(f"There are {examples} rows of probabilities, labels {labels.shape}, losses {losses.shape}.")
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"Labels are {labels.dtype}; expected integers.")
    if examples == 0:
        return
    if not (np.isfinite(probabilities).all() and np.isfinite(losses).all()):
        raise ValueError("A probability or loss is NaN or infinite.")
    rounding = 1e-6  # of a float32 softmax
    if probabilities.min() < 0.0 or probabilities.max() > 1.0 + rounding:
        raise ValueError("A probability is outside 0..1; are these logits?")
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(f"A label is outside 0..{classes - 1}.")
    if losses.min() < 0.0:
        raise ValueError("A loss is negative.")


def _count(cells: Integers, shape: tuple[int, int]) -> Integers:
    return np.bincount(cells, minlength=shape[0] * shape[1]).reshape(shape).astype(np.int64, copy=False)


def _histograms(probabilities: Floats, labels: Integers) -> tuple[Integers, Integers]:
    examples, classes = probabilities.shape
    bins = score_bins(classes)
    cells = score_bin(probabilities, bins) + np.arange(classes) * bins
    positives = _count(cells[np.arange(examples), labels], (classes, bins))
    return positives, _count(cells.ravel(), (classes, bins)) - positives


def _calibration(confidences: Floats, correct: npt.NDArray[np.bool_]) -> Integers:
    fixed = fixed_confidence(confidences)
    bins = confidence_bin(fixed)
    calibration = np.zeros((CALIBRATION_BINS, 3), np.int64)
    np.add.at(calibration, bins, np.stack((np.ones_like(fixed), fixed, correct.astype(np.int64)), axis=1))
    return calibration


def _read_histogram(arrays: Arrays, name: str, totals: Integers) -> Integers:
    """Return the dense ``int64 [K, B]`` whose row ``k`` must add up to ``totals[k]``."""
    histogram = read_cells(arrays, name, (len(totals), score_bins(len(totals))))
    wrong = np.flatnonzero(histogram.sum(axis=1) != totals)
    if wrong.size:
        raise MessageError(f"'{name}' and 'confusion' disagree on how many examples class {wrong[0]} has.")
    return histogram


def _read_decisions(arrays: Arrays, *, true: Integers, rows: int) -> Integers:
    """Return the dense ``int64 [2 R, D]``: the first row has everybody, no group has more than there are."""
    decisions = read_cells(arrays, "decisions", (2 * rows, DECISION_BINS))
    sizes = decisions.sum(axis=1).reshape(rows, 2)
    if (sizes[0] != true).any() or (decisions[2:].reshape(-1, 2, DECISION_BINS) > decisions[:2]).any():
        raise MessageError("'decisions' and 'confusion' disagree on who there is.")
    return decisions


def _read_calibration(arrays: Arrays, *, total: int, correct: int) -> Integers:
    calibration = read_array(arrays, "calibration", (CALIBRATION_BINS, 3), limit=total * CONFIDENCE_ONE)
    counts, confidences, hits = calibration.T
    if counts.max() > total or counts.sum() != total:
        raise MessageError("'calibration' and 'confusion' disagree on how many examples there are.")
    if (hits > counts).any() or hits.sum() != correct:
        raise MessageError("'calibration' and 'confusion' disagree on how many examples are right.")
    edges = np.arange(CALIBRATION_BINS + 1) * CONFIDENCE_ONE
    scaled = confidences * CALIBRATION_BINS
    if (
        (confidences > counts * CONFIDENCE_ONE).any()
        or (scaled < counts * edges[:-1]).any()
        or (scaled > counts * edges[1:]).any()
    ):
        raise MessageError("'calibration' holds a sum of confidences that its bin cannot have.")
    return calibration
