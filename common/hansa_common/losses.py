"""What a plan's releases cost in privacy: the events that a ledger charges and an accountant adds up."""

from collections.abc import Sequence

from hansa_common.errors import PrivacyError
from hansa_common.plan import StudyPlan
from hansa_common.privacy import Event, Gaussian, Unit, epsilon_pld, epsilon_rdp, training
from hansa_common.privacy.events import DistributedGaussian
from hansa_common.protection import distributed_gaussian, server_gaussian, terms_of


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
        return (mechanism.event(count=count),)
    if noised.kind == "site_distributed":
        return (distributed_gaussian(plan, terms_of(plan, sites), dimension).event(count=count),)
    assert noised.sampling_rate is not None
    assert plan.training.steps is not None
    steps = plan.training.steps * count
    events = [training(noised.noise_multiplier, sampling_rate=noised.sampling_rate, steps=steps)]
    return (*events, *_losses_of_counts(plan, count))


def losses_of_closing(plan: StudyPlan) -> tuple[Event, ...]:
    """Return what the closing exchange releases: noised counts of two splits, or nothing."""
    return _losses_of_counts(plan, 2)


def _losses_of_counts(plan: StudyPlan, count: int) -> tuple[Event, ...]:
    """Return what ``count`` noised confusion matrices cost: one person changes one cell by 1."""
    noised = plan.privacy.differential
    if noised is None or noised.metrics_noise is None:
        return ()
    return (Gaussian(unit=Unit.EXAMPLE, noise_multiplier=noised.metrics_noise, count=count),)


def spent(plan: StudyPlan, events: Sequence[Event]) -> float:
    """Return an upper bound of epsilon for these events at the plan's delta."""
    noised = plan.privacy.differential
    assert noised is not None
    if any(isinstance(event, DistributedGaussian) for event in events):
        return epsilon_rdp(events, noised.delta)
    return epsilon_pld(events, noised.delta)
