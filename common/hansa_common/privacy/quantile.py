"""The clipping bound as a private quantile of the sites' norms: adaptive clipping.

Andrew, Thakkar, McMahan, Ramaswamy: Differentially Private Learning with Adaptive Clipping, NeurIPS 2021, algorithm 1:
``C <- C exp(-rate (b - quantile))``, where ``b`` is the noised share of sites whose norm was at most ``C``. Each site
sends +1 or -1 instead of the paper's 1/2 and -1/2, so that the sum is an integer; its sensitivity is 1. The norms
never leave. What the counts cost is an event like any other.
"""

import math
from dataclasses import dataclass
from fractions import Fraction

from hansa_common.errors import PrivacyError
from hansa_common.privacy import events
from hansa_common.privacy.clipping import check_bound
from hansa_common.privacy.discrete_gaussian import DiscreteGaussian
from hansa_common.privacy.events import Relation, Unit
from hansa_common.privacy.keystream import Keystream


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptiveClipping:
    """Moves the bound to where ``quantile`` of the norms are not clipped."""

    quantile: float = 0.5
    rate: float = 0.2
    """Of the geometric update; the paper's."""
    noise_multiplier: float
    """Of the count: deviation over its sensitivity, under the relation."""
    least: float = 1e-6
    most: float = 1e6
    """Bounds of the bound."""
    relation: Relation = Relation.ADD_OR_REMOVE_ONE

    def __post_init__(self) -> None:
        if not (0.0 < self.quantile < 1.0 and 0.0 < self.rate <= 1.0 and 0.0 < self.least <= self.most < math.inf):
            raise PrivacyError(
                f"adaptive clipping: found {self}.", advice="Allowed are a quantile and a rate in (0, 1)."
            )
        if not 0.05 <= self.noise_multiplier <= 1e6:  # noqa: PLR2004 - less is no noise on a count
            raise PrivacyError(
                f"adaptive clipping: found a noise multiplier of {self.noise_multiplier!r}.",
                advice="Allowed is 0.05 to 1,000,000.",
            )

    @staticmethod
    def constrain_sensitivity(norm: float, bound: float) -> int:
        """Return what a site sends of its norm: 1 where it is at most the bound, else -1.

        Raises:
            PrivacyError: The norm or the bound is NaN, infinite or negative.
        """
        return 1 if check_bound(norm) <= check_bound(bound) else -1

    def add_noise(self, total: int, stream: Keystream) -> int:
        """Return the sum of what the sites sent, with noise."""
        deviation = math.nextafter(self.noise_multiplier * self.relation.sensitivity(1.0), math.inf)
        return total + int(DiscreteGaussian(Fraction(deviation) ** 2, stream).draw(1)[0])

    def next_bound(self, bound: float, noisy_total: int, *, sites: int) -> float:
        """Return the bound of the following round.

        Args:
            bound: Of this round.
            noisy_total: From ``add_noise``.
            sites: How many are in it.
        """
        share = min(1.0, max(0.0, (noisy_total / sites + 1.0) / 2.0))
        return min(self.most, max(self.least, bound * math.exp(-self.rate * (share - self.quantile))))

    def event(self, *, count: int = 1) -> events.Gaussian:
        """Return what ``count`` updates of the bound cost, beside the training."""
        return events.Gaussian(
            unit=Unit.SITE, relation=self.relation, noise_multiplier=self.noise_multiplier, count=count
        )
