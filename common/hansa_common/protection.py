"""What a plan's ``[privacy]`` means in numbers: the same at each site and at the server.

Shapes: ``P`` parameters, ``K`` classes.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from hansa_common.errors import PlanError
from hansa_common.messages import EvaluateTask, ExplainTask, StatisticsTask, Sums, TrainTask, Update
from hansa_common.metrics import ClassificationKind, Counts, CountsKind, counts_kind
from hansa_common.metrics.counts import LOSS_ONE, MAX_LOSS
from hansa_common.parameters import Vector, sha256_of
from hansa_common.plan import StudyPlan
from hansa_common.privacy import AdaptiveClipping, DistributedMechanism, Keystream, ServerMechanism
from hansa_common.privacy_plan import PrivacyPlan, SecureAggregationPlan
from hansa_common.secagg import FixedPoint, Rounding, Terms, Words

_PREPARED: Final = b"hansa prepared model v1\0"
_NO_MODEL: Final = np.zeros(0, np.float32)  # statistics are measured before there is one
_MOST_SHORTENED: Final = 0.05  # of a clipping bound, to leave room for rounding


def terms_of(plan: StudyPlan, sites: Sequence[str]) -> Terms:
    """Return what secure aggregation stands on.

    Args:
        plan: With ``[privacy.secure_aggregation]``.
        sites: The plan's list, in any order; of a simulation, its sites.

    Raises:
        PlanError: Masks cannot protect a list like this.
    """
    masked = _masked(plan)
    return Terms(
        plan_digest=plan.digest(), sites=tuple(sorted(sites)), cohort=masked.cohort, ring_bits=masked.ring_bits
    )


def seen_digest(task: TrainTask | EvaluateTask | ExplainTask | StatisticsTask, parameters: Vector | None) -> bytes:
    """Return what all sites of a masked round must have seen alike, or their masks do not cancel.

    That is the model, and what was done to the features before it: a server that had all sites but one clip every
    feature to one value would know what they add, and so read the other one's part of the sum.

    Args:
        task: That carried it.
        parameters: ``float32 [P]``; none where statistics are measured.

    Returns:
        A SHA-256, 32 bytes; of the model alone where the plan has no preprocessing.
    """
    model = bytes.fromhex(sha256_of(_NO_MODEL if parameters is None else parameters))
    prepared = None if isinstance(task, StatisticsTask) else task.prepared
    if prepared is None:
        return model
    return hashlib.sha256(_PREPARED + model + bytes.fromhex(prepared.digest())).digest()


def _masked(plan: StudyPlan) -> SecureAggregationPlan:
    if plan.privacy.secure_aggregation is None:
        raise RuntimeError("The plan has no secure aggregation.")
    return plan.privacy.secure_aggregation


# --- weights -------------------------------------------------------------------------------------------------------


def counted_examples(privacy: PrivacyPlan, num_examples: int) -> int:
    """Return for how many examples a site counts in the mean."""
    if privacy.weights == "equal":
        return 1
    return min(num_examples, privacy.maximum_examples or num_examples)


def weight_of(privacy: PrivacyPlan, num_examples: int) -> float:
    """Return the factor of a site's update in a masked sum, above 0 and at most 1."""
    return counted_examples(privacy, num_examples) / _most_counted(privacy)


def _most_counted(privacy: PrivacyPlan) -> int:
    """Return for how many examples a site may count at most; a plan with masks says so."""
    return 1 if privacy.weights == "equal" else privacy.maximum_examples or 1


# --- updates -------------------------------------------------------------------------------------------------------


def update_bound(plan: StudyPlan, *, sites: int, dimension: int) -> float | None:
    """Return to which L2 norm a site clips its update before it leaves; ``None`` where the plan has no bound.

    Where the server's noise is calibrated to the bound and updates are rounded for the ring, a site clips a little
    more, so that the bound holds after rounding.

    Raises:
        PlanError: Rounding would take more than a twentieth of the bound.
    """
    bound, noised = plan.privacy.update_bound, plan.privacy.differential
    masked = plan.privacy.secure_aggregation is not None
    if bound is None or not masked or noised is None or noised.kind != "site_server":
        return bound
    rounding = _fixed_point(plan, sites).step * math.sqrt(dimension)
    if rounding > _MOST_SHORTENED * bound:
        raise PlanError(
            f"privacy.secure_aggregation: rounding moves an update by up to {rounding:.3g}, and the clipping bound "
            f"that the noise hides is {bound:g}.",
            path="privacy.secure_aggregation",
            advice="Take ring_bits = 32, a smaller coordinate_range or a larger clipping_bound.",
        )
    return bound - rounding


def encode_update(plan: StudyPlan, terms: Terms, delta: Vector, num_examples: int) -> Words:
    """Return a site's update as words of the ring, with its part of the noise where the plan has that.

    Args:
        plan: The study.
        terms: Of its secure aggregation.
        delta: ``float32 [P]``, clipped.
        num_examples: Of the site, for its weight.

    Returns:
        ``uint16`` or ``uint32 [P]``.

    Raises:
        ReleaseRefused: It is not finite.
    """
    if _is_distributed(plan):
        mechanism, stream = distributed_gaussian(plan, terms, delta.size), Keystream()
        rounded = mechanism.constrain_sensitivity(delta, stream)
        mechanism.add_noise(rounded, stream)
        return rounded.astype(terms.dtype)  # modulo 2**32
    weight = weight_of(plan.privacy, num_examples)
    words, _clamped = _fixed_point(plan, terms.n).encode(delta, weight, rounding=Rounding())
    return words


def unit_of(plan: StudyPlan, terms: Terms, dimension: int) -> float:
    """Return what a unit of a sum of ``encode_update`` is worth in the sum of updates times ``counted_examples``."""
    if _is_distributed(plan):
        return 1.0 / distributed_gaussian(plan, terms, dimension).scale
    return _fixed_point(plan, terms.n).step * _most_counted(plan.privacy)


def _fixed_point(plan: StudyPlan, sites: int) -> FixedPoint:
    """Return the encoding of updates.

    Raises:
        PlanError: The sum of so many sites could overflow.
    """
    masked = _masked(plan)
    return FixedPoint(ring_bits=masked.ring_bits, coordinate_range=masked.coordinate_range, sites=sites)


# --- noise ---------------------------------------------------------------------------------------------------------


def _is_distributed(plan: StudyPlan) -> bool:
    noised = plan.privacy.differential
    return noised is not None and noised.kind == "site_distributed"


def server_gaussian(plan: StudyPlan, dimension: int) -> ServerMechanism | None:
    """Return the noise that the server adds to a sum of ``dimension`` values; ``None`` where it adds none."""
    noised = plan.privacy.differential
    if noised is None or noised.kind != "site_server":
        return None
    return ServerMechanism(bound=noised.clipping_bound, noise_multiplier=noised.noise_multiplier, dimension=dimension)


def adaptive_clipping(plan: StudyPlan) -> AdaptiveClipping | None:
    """Return what moves the clipping bound from round to round; ``None`` where it stays."""
    noised = plan.privacy.differential
    return None if noised is None or noised.adaptive is None else AdaptiveClipping(**noised.adaptive.model_dump())


def distributed_gaussian(plan: StudyPlan, terms: Terms, dimension: int) -> DistributedMechanism:
    """Return the noise of which each site adds its share to ``dimension`` values, on the finest grid that the ring has.

    Raises:
        PrivacyError: No grid holds both updates and noise.
    """
    noised, masked = plan.privacy.differential, _masked(plan)
    assert noised is not None
    return DistributedMechanism.finest(
        bound=noised.clipping_bound,
        coordinate_range=masked.coordinate_range,
        noise_multiplier=noised.noise_multiplier,
        dimension=dimension,
        sites=terms.n,
        honest=terms.threshold - terms.colluders,
        ring_bits=masked.ring_bits,
    )


# --- counts --------------------------------------------------------------------------------------------------------


def kind_of(plan: StudyPlan) -> CountsKind:
    """Return how a plan's counts are read."""
    return counts_kind(plan.data, rows=plan.evaluation.decision_rows)


def counts_leave(privacy: PrivacyPlan) -> bool:
    """Tell whether counts of right and wrong answers leave a site at all, in the open or masked or noised."""
    return privacy.differential is None or privacy.differential.metrics_noise is not None


def round_sums(counts: Counts, header: Update) -> Sums:
    """Return what one site adds to the counts of a round: of the validation split, and of its training.

    Returns:
        ``uint64 [num_round_sums]``: the counts, the training loss times the examples in units of 2**-20, and the
        examples.
    """
    loss = round(min(header.train_loss, MAX_LOSS) * LOSS_ONE) * header.num_examples
    return np.concatenate([counts.to_sums(), np.array([loss, header.num_examples], np.uint64)])


def num_round_sums(privacy: PrivacyPlan, kind: CountsKind) -> int:
    """Return how many values ``round_sums`` gives; none where no counts leave."""
    return kind.num_sums(histograms=False) + 2 if counts_leave(privacy) else 0


def read_round_sums(sums: Sums, kind: CountsKind) -> tuple[Counts, float | None]:
    """Return the sum of ``round_sums`` over sites: counts, and the mean training loss.

    Raises:
        MessageError: The sum is none of counts.
    """
    counts = kind.from_sums(sums[:-2], histograms=False)
    loss, examples = (float(value) for value in sums[-2:])
    return counts, loss / LOSS_ONE / examples if examples else None


def weighs_costs(kind: CountsKind) -> bool:
    """Tell whether the last model's validation counts have histograms too: a threshold is chosen from them."""
    return isinstance(kind, ClassificationKind) and kind.rows > 0


def evaluated_names(plan: StudyPlan) -> tuple[str, ...]:
    """Return the names of the counts that are summed in the closing exchange, in the order of their sums."""
    if not counts_leave(plan.privacy):
        return ()
    return ("validation", "test", *(["ensemble"] if plan.tested > 1 else []))


def evaluation_sums(plan: StudyPlan, counts: Mapping[str, Counts]) -> Sums:
    """Return what one site adds to the counts of the closing exchange, ``uint64``."""
    return np.concatenate([counts[name].to_sums() for name in evaluated_names(plan)])


def num_evaluation_sums(plan: StudyPlan, kind: CountsKind) -> int:
    """Return how many values ``evaluation_sums`` gives."""
    return sum(kind.num_sums(histograms=_has_histograms(name, plan.privacy, kind)) for name in evaluated_names(plan))


def read_evaluation_sums(sums: Sums, plan: StudyPlan, kind: CountsKind) -> dict[str, Counts]:
    """Return the sum of ``evaluation_sums`` over sites, by the name of the counts.

    Raises:
        MessageError: The sum is none of counts.
    """
    found, start = {}, 0
    for name in evaluated_names(plan):
        histograms = _has_histograms(name, plan.privacy, kind)
        end = start + kind.num_sums(histograms=histograms)
        found[name] = kind.from_sums(sums[start:end], histograms=histograms)
        start = end
    return found


def _has_histograms(name: str, privacy: PrivacyPlan, kind: CountsKind) -> bool:
    """Tell whether counts of the closing exchange have histograms; they leave without noise only."""
    return weighs_costs(kind) if name == "validation" else privacy.differential is None
