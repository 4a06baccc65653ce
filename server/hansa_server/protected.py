"""What protected a study's updates, for its results, and whether its budget lasts."""

from collections.abc import Sequence

from hansa_common.errors import StudyFailed
from hansa_common.losses import losses_of_rounds, spent
from hansa_common.plan import StudyPlan
from hansa_common.protection import terms_of
from hansa_server.results import Masks, Noise, Protection, RoundResult


def protection_of(
    plan: StudyPlan, sites: Sequence[str], rounds: Sequence[RoundResult], *, dimension: int
) -> Protection | None:
    """Return what protected the updates; ``None`` where the plan asks for nothing.

    Args:
        plan: The study.
        sites: The plan's list.
        rounds: Those that count; what was repeated is charged too.
        dimension: ``P``; 0 before the model is known.
    """
    privacy = plan.privacy
    if privacy.secure_aggregation is None and privacy.differential is None and privacy.clipping_bound is None:
        return None
    attempts = sum(1 + len(entry.void_attempts) for entry in rounds)
    return Protection(
        weights=privacy.weights,
        clipping_bound=privacy.update_bound,
        masks=_masks(plan, sites),
        noise=_noise(plan, sites, attempts, dimension),
    )


def _masks(plan: StudyPlan, sites: Sequence[str]) -> Masks | None:
    masked = plan.privacy.secure_aggregation
    if masked is None:
        return None
    terms = terms_of(plan, sites)
    return Masks(
        ring_bits=masked.ring_bits,
        coordinate_range=masked.coordinate_range,
        cohort=masked.cohort,
        sites=terms.n,
        threshold=terms.threshold,
        colluders=terms.colluders,
    )


def _noise(plan: StudyPlan, sites: Sequence[str], attempts: int, dimension: int) -> Noise | None:
    noised = plan.privacy.differential
    if noised is None:
        return None
    epsilon = None
    if noised.kind != "example" and dimension:
        epsilon = spent(plan, losses_of_rounds(plan, sites, attempts, dimension=dimension))
    return Noise(
        kind=noised.kind,
        clipping_bound=noised.clipping_bound,
        quantile=noised.adaptive.quantile if noised.adaptive is not None else None,
        noise_multiplier=noised.noise_multiplier,
        epsilon_budget=noised.epsilon,
        delta=noised.delta,
        epsilon=epsilon,
        unit=("person" if noised.unit is None else noised.unit) if noised.kind == "example" else "site",
        metrics_noise=noised.metrics_noise,
    )


def require_budget(plan: StudyPlan, sites: Sequence[str], *, dimension: int) -> None:
    """Return if the plan's rounds stay within its own budget.

    Raises:
        StudyFailed: They do not; before anything is trained.
    """
    noised = plan.privacy.differential
    if noised is None:
        return
    cost = spent(plan, losses_of_rounds(plan, sites, plan.rounds.count, dimension=dimension))
    if cost > noised.epsilon:
        raise StudyFailed(
            f"{plan.rounds.count} rounds cost epsilon {cost:.4g} at delta {noised.delta:g}; the plan allows "
            f"{noised.epsilon:g}.",
            advice="See 'hansa study budget': take fewer rounds, a larger noise_multiplier, or allow more.",
        )
