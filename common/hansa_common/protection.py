"""What a plan's ``[privacy]`` means in numbers: the same at each site and at the server.

Shapes: ``P`` parameters, ``K`` classes.
"""

from collections.abc import Sequence

import numpy as np

from hansa_common.messages import Sums, Update
from hansa_common.metrics import ClassificationCounts, num_sums
from hansa_common.metrics.counts import LOSS_ONE, MAX_LOSS
from hansa_common.parameters import Vector
from hansa_common.plan import StudyPlan
from hansa_common.privacy_plan import PrivacyPlan
from hansa_common.secagg import FixedPoint, Rounding, Terms, Words


def terms_of(plan: StudyPlan, sites: Sequence[str]) -> Terms:
    """Return what secure aggregation stands on.

    Args:
        plan: With ``[privacy.secure_aggregation]``.
        sites: The plan's list, in any order; of a simulation, its sites.

    Raises:
        PlanError: Masks cannot protect a list like this.
    """
    masked = plan.privacy.secure_aggregation
    assert masked is not None
    return Terms(
        plan_digest=plan.digest(), sites=tuple(sorted(sites)), cohort=masked.cohort, ring_bits=masked.ring_bits
    )


def weight_of(privacy: PrivacyPlan, num_examples: int) -> float:
    """Return the weight of a site's update in the sum, above 0 and at most 1."""
    if privacy.weights == "equal":
        return 1.0
    most = privacy.maximum_examples or num_examples
    return min(num_examples, most) / most


def counted_examples(privacy: PrivacyPlan, num_examples: int) -> int:
    """Return for how many examples a site counts."""
    if privacy.weights == "equal":
        return 1
    return min(num_examples, privacy.maximum_examples or num_examples)


def fixed_point(plan: StudyPlan, terms: Terms) -> FixedPoint:
    """Return what turns updates into words of the ring, and their sum back.

    Raises:
        PlanError: The sum of so many sites could overflow.
    """
    masked = plan.privacy.secure_aggregation
    assert masked is not None
    return FixedPoint(ring_bits=masked.ring_bits, coordinate_range=masked.coordinate_range, sites=terms.n)


def encode_update(plan: StudyPlan, terms: Terms, delta: Vector, weight: float) -> Words:
    """Return a site's update as words of the ring, with its part of the noise where the plan has that.

    Args:
        plan: The study.
        terms: Of its secure aggregation.
        delta: ``float32 [P]``, clipped.
        weight: Of this site, above 0 and at most 1.

    Returns:
        ``uint16`` or ``uint32 [P]``.
    """
    words, _clamped = fixed_point(plan, terms).encode(delta, weight, rounding=Rounding())
    return words


def round_sums(counts: ClassificationCounts, header: Update) -> Sums:
    """Return what one site adds to the counts of a round: of the validation split, and its training loss.

    Returns:
        ``uint64 [K * K + 2]``; the loss times the examples, in units of 2**-20.
    """
    loss = round(min(header.train_loss, MAX_LOSS) * LOSS_ONE) * header.num_examples
    return np.concatenate([counts.to_sums(), np.array([loss], np.uint64)])


def read_round_sums(sums: Sums, classes: int) -> tuple[ClassificationCounts, float]:
    """Return the sum of ``round_sums`` over sites as counts and the sum of losses times examples.

    Raises:
        MessageError: The sum is none of counts.
    """
    return ClassificationCounts.from_sums(sums[:-1], classes, histograms=False), float(sums[-1]) / LOSS_ONE


def num_round_sums(classes: int) -> int:
    """Return how many values ``round_sums`` gives."""
    return num_sums(classes, histograms=False) + 1


def evaluation_sums(validation: ClassificationCounts, test: ClassificationCounts) -> Sums:
    """Return what one site adds to the counts of the closing exchange, ``uint64``."""
    return np.concatenate([validation.to_sums(), test.to_sums()])


def read_evaluation_sums(sums: Sums, classes: int) -> tuple[ClassificationCounts, ClassificationCounts]:
    """Return the sum of ``evaluation_sums`` over sites: validation and test.

    Raises:
        MessageError: The sum is none of counts.
    """
    middle = num_sums(classes, histograms=False)
    first, second = sums[:middle], sums[middle:]
    return (
        ClassificationCounts.from_sums(first, classes, histograms=False),
        ClassificationCounts.from_sums(second, classes, histograms=True),
    )


def num_evaluation_sums(classes: int) -> int:
    """Return how many values ``evaluation_sums`` gives."""
    return num_sums(classes, histograms=False) + num_sums(classes, histograms=True)
