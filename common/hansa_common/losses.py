"""What a plan's releases cost in privacy: the events that a ledger charges and an accountant adds up."""

from collections.abc import Sequence

from hansa_common.errors import PrivacyError
from hansa_common.plan import StudyPlan
from hansa_common.privacy import Event, epsilon_pld, epsilon_rdp
from hansa_common.privacy.events import DistributedGaussian
from hansa_common.privacy.example_level import counts_event, training_event
from hansa_common.protection import adaptive_clipping, distributed_gaussian, server_gaussian, terms_of


def losses_of_rounds(plan: StudyPlan, sites: Sequence[str], count: int, *, dimension: int) -> tuple[Event, ...]:
    """Return what ``count`` rounds, void ones included, release of one site or of one person.

    Args:
        plan: With ``[privacy.differential]``.
        sites: The plan's list.
        count: How many rounds; none cost nothing.
        dimension: ``P``.

    Raises:
        PrivacyError: The plan's noise cannot be accounted for.
    """
    noised = plan.privacy.differential
    if noised is None:
        raise PrivacyError("The plan has no differential privacy.")
    if count == 0:
        return ()
    if noised.kind == "site_server":
        mechanism = server_gaussian(plan, dimension)
        assert mechanism is not None
        adaptive = adaptive_clipping(plan)
        return (mechanism.event(count=count), *(() if adaptive is None else (adaptive.event(count=count),)))
    if noised.kind == "site_distributed":
        return (distributed_gaussian(plan, terms_of(plan, sites), dimension).event(count=count),)
    assert plan.training.steps is not None
    event = training_event(noised, steps=plan.training.steps * count)
    return (event, *_losses_of_counts(plan, count))


def losses_of_closing(plan: StudyPlan) -> tuple[Event, ...]:
    """Return what the closing exchange releases: noised counts of two splits, or nothing."""
    return _losses_of_counts(plan, 2)


def _losses_of_counts(plan: StudyPlan, count: int) -> tuple[Event, ...]:
    """Return what the noised counts of ``count`` evaluations cost; nothing where none leave."""
    noised = plan.privacy.differential
    event = counts_event(noised, evaluations=count) if noised is not None else None
    return () if event is None else (event,)


def spent(plan: StudyPlan, events: Sequence[Event]) -> float:
    """Return an upper bound of epsilon for these events at the plan's delta."""
    noised = plan.privacy.differential
    assert noised is not None
    if any(isinstance(event, DistributedGaussian) for event in events):
        return epsilon_rdp(events, noised.delta)
    return epsilon_pld(events, noised.delta)
