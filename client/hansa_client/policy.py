"""What this site lets be done, decided from its own settings: a plan that it does not allow is refused every time."""

from hansa_client.settings import SiteSettings
from hansa_common.errors import PolicyRefused
from hansa_common.plan import StudyPlan
from hansa_common.protection import terms_of


def check(plan: StudyPlan, settings: SiteSettings) -> None:
    """Return if the site's policy allows a plan.

    Raises:
        PolicyRefused: It does not; the message says which rule, and the advice what to do.
    """
    policy, masked, noised = settings.policy, plan.privacy.secure_aggregation, plan.privacy.differential
    if policy.secure_aggregation == "required" and masked is None:
        raise PolicyRefused(
            "This site's policy requires secure aggregation, and the plan shows the coordinator each site's update.",
            advice='Ask for a plan with [privacy.secure_aggregation], or set policy.secure_aggregation = "optional".',
        )
    if policy.differential_privacy == "required" and noised is None:
        raise PolicyRefused(
            "This site's policy requires differential privacy, and the plan has none.",
            advice='Ask for a plan with [privacy.differential], or set policy.differential_privacy = "optional".',
        )
    if masked is not None:
        _check_masks(plan, policy.minimum_sites)


def _check_masks(plan: StudyPlan, minimum: int) -> None:
    fewest = terms_of(plan, plan.federation.sites if plan.federation else ()).required
    if fewest < minimum:
        raise PolicyRefused(
            f"This plan opens the sum of {fewest} sites; this site's policy asks for at least {minimum}.",
            advice="Ask for a plan with more sites, or lower policy.minimum_sites in site.toml.",
        )
