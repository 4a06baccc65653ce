"""What example-level privacy costs a person of a site: the events of a plan, for the site's ledger.

A person's rows are all in one split, so a round costs a person either the training or the counts of one split, never
both. Charging both, as a ledger does that adds all events up, is more than is spent.
"""

from hansa_common.privacy.accounting import training
from hansa_common.privacy.events import Event, Gaussian, Unit
from hansa_common.privacy_plan import DifferentialPrivacyPlan


def training_event(plan: DifferentialPrivacyPlan, *, steps: int) -> Event:
    """Return what one round of training costs.

    Args:
        plan: Of kind ``example``.
        steps: ``training.steps`` of the study.

    Raises:
        RuntimeError: The plan is of another kind.
    """
    if plan.kind != "example" or plan.sampling_rate is None:
        raise RuntimeError(f"A plan of kind '{plan.kind}' has no private training at a site.")
    return training(plan.noise_multiplier, sampling_rate=plan.sampling_rate, steps=steps, unit=Unit.EXAMPLE)


def counts_event(plan: DifferentialPrivacyPlan, *, evaluations: int = 1) -> Event | None:
    """Return what the counts of so many evaluations of one split cost; ``None`` where no counts leave.

    One row of a person is counted, which changes one cell of the confusion matrix by 1.
    """
    if plan.metrics_noise is None:
        return None
    return Gaussian(unit=Unit.EXAMPLE, noise_multiplier=plan.metrics_noise, count=evaluations)
