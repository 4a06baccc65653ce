"""What events cost: epsilon by privacy loss distributions within a study, Renyi divergence at one order across studies.

* Within a study: Koskela, Jaelkoe, Honkela, Computing Tight Differential Privacy Guarantees Using FFT, AISTATS 2020,
  with the pessimistic discretisation of Doroshenko et al., Connect the Dots, PETS 2022, as ``dp_accounting`` has it.
  Unsampled Gaussians alone are exact: Balle and Wang, Improving the Gaussian Mechanism, ICML 2018, theorem 8. The
  classical formula ``sqrt(2 log(1.25 / delta)) / epsilon`` is nowhere: above epsilon 1 it is no bound.
* Across studies, whose plans may depend on earlier results: Renyi differential privacy of one order that is fixed
  beforehand is a valid filter (Feldman and Zrnic, Individual Privacy Accounting via a Renyi Filter, NeurIPS 2021);
  privacy loss distributions of adaptively chosen mechanisms are not.
* Distributed discrete Gaussian: Kairouz, Liu, Steinke, ICML 2021, proposition 14. A sum of discrete Gaussians is not
  one; ``tau`` bounds by how much. There is no proof for its privacy loss distribution, so epsilon comes from Renyi
  divergences of many orders.

Every number is an upper bound: rounding is against the claimant.
"""

import functools
import math
from collections.abc import Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from hansa_common.errors import PrivacyError
from hansa_common.privacy.events import (
    DistributedGaussian,
    Event,
    Gaussian,
    NoisedCounts,
    SampledGaussian,
    Unit,
    common_ground,
)

if TYPE_CHECKING:
    from collections.abc import Callable

ORDERS: Final = (*(tenths / 10 for tenths in range(17, 110)), *range(11, 65), 80, 96, 128, 192, 256, 512, 1024)
"""Renyi orders to choose from; below 1.7 the series of the sampled Gaussian often does not converge."""

_INTERVALS: Final = (4e-3, 1e-3, 2.5e-4, 6.25e-5, 1.5625e-5)  # of the discretised privacy loss, from coarse to fine
_ACCURACY: Final = 0.01  # relative; the error falls with the square of the interval
_LARGEST_EPSILON: Final = 1e3
_WIDTH: Final = 1e-3  # relative, of the bracket at which a search for a noise multiplier ends
_LEAST_MULTIPLIER: Final = 0.05
_LARGEST_MULTIPLIER: Final = 1e5  # no model survives a thousandth of it


def check_delta(delta: float, *, units: int | None = None) -> float:
    """Return a delta that means something.

    Args:
        delta: Probability with which the bound on the privacy loss may fail.
        units: How many units the data has; releasing one of them in full has delta ``1 / units``.

    Raises:
        PrivacyError: It is not inside (0, 1), or not below ``1 / units``.
    """
    if not 0.0 < delta < 1.0:
        raise PrivacyError(f"delta: found {delta!r}.", advice="Allowed is a number above 0 and below 1.")
    if units is not None and Decimal(repr(float(delta))) * units >= 1:
        raise PrivacyError(
            f"delta: found {delta:g} for {units:,} units; publishing one of them whole would satisfy it.",
            advice=f"Choose a delta well below 1/{units}.",
        )
    return delta


def epsilon_pld(events: Sequence[Event], delta: float) -> float:
    """Return an upper bound of epsilon for events whose parameters were all fixed beforehand, within one study.

    The discretisation is refined until the bound changes by less than one per cent, of which the rest of the error is
    about a fifteenth.

    Raises:
        PrivacyError: Units or relations differ, delta is wrong, or an event has no proven privacy loss distribution.
    """
    check_delta(delta)
    if not events:
        return 0.0
    common_ground(events)
    if any(isinstance(event, DistributedGaussian) for event in events):
        raise PrivacyError(
            "No privacy loss distribution is proven for the distributed discrete Gaussian.",
            advice="Take epsilon_rdp.",
        )
    gaussians = [event for event in events if isinstance(event, Gaussian)]
    if len(gaussians) == len(events):
        from dp_accounting.gaussian_mechanism import get_epsilon_gaussian  # noqa: PLC0415 - takes 1.5 s to import

        return float(get_epsilon_gaussian(_together(gaussians), delta))
    bound = math.inf
    for interval in _INTERVALS:
        before, bound = bound, _epsilon_at(events, delta, interval)
        if before - bound <= _ACCURACY * bound or bound == 0.0:
            break
    return bound


def rdp_at(events: Sequence[Event], order: int) -> float:
    """Return an upper bound of the Renyi divergence of ``order`` that the events together have; it just adds up.

    Raises:
        PrivacyError: Units or relations differ, or the order is not an integer of at least 2.
    """
    if order < 2 or order != int(order):  # noqa: PLR2004 - below 2 no finite sum is known
        raise PrivacyError(f"Renyi order: found {order!r}.", advice="Allowed is an integer of at least 2.")
    if not events:
        return 0.0
    common_ground(events)
    return math.fsum(_divergence(event, order) for event in events)


def epsilon_from_rdp(divergence: float, order: float, delta: float) -> float:
    """Return the epsilon that a Renyi divergence of one order implies.

    Canonne, Kamath, Steinke, NeurIPS 2020, proposition 12: ``r + log(1 - 1/a) - log(delta a) / (a - 1)``.
    """
    check_delta(delta)
    if math.isinf(divergence):
        return math.inf
    return max(0.0, divergence + math.log1p(-1.0 / order) - math.log(delta * order) / (order - 1))


def rdp_from_epsilon(epsilon: float, order: float, delta: float) -> float:
    """Return the largest Renyi divergence of one order that still implies ``epsilon``; below 0 where none does."""
    check_delta(delta)
    return epsilon - math.log1p(-1.0 / order) + math.log(delta * order) / (order - 1)


def epsilon_rdp(events: Sequence[Event], delta: float, *, orders: Sequence[float] = ORDERS) -> float:
    """Return the least epsilon that one of the orders, all above 1, gives: for what has no privacy loss distribution.

    Raises:
        PrivacyError: Units or relations differ, or delta is wrong.
    """
    check_delta(delta)
    if not events:
        return 0.0
    common_ground(events)
    return min(
        epsilon_from_rdp(math.fsum(_divergence(event, order) for event in events), order, delta) for order in orders
    )


def epsilon_within(events: Sequence[Event], delta: float) -> float:
    """Return the epsilon of one study, whose events were all fixed beforehand, by the tightest proven means.

    Raises:
        PrivacyError: Units or relations differ, or delta is wrong.
    """
    if any(isinstance(event, DistributedGaussian) for event in events):
        return epsilon_rdp(events, delta)
    return epsilon_pld(events, delta)


def best_order(epsilon: float, delta: float) -> int:
    """Return the integer order at which a budget pays for the most Gaussian releases.

    Raises:
        PrivacyError: At no order does a divergence above 0 imply so small an epsilon.
    """
    order = max(range(2, 1025), key=lambda order: rdp_from_epsilon(epsilon, order, delta) / order)
    if rdp_from_epsilon(epsilon, order, delta) <= 0.0:
        raise PrivacyError(f"No Renyi divergence implies epsilon {epsilon:g} at delta {delta:g}.")
    return order


def noise_multiplier_for(
    epsilon: float, delta: float, *, sampling_rate: float, steps: int, unit: Unit = Unit.EXAMPLE
) -> float:
    """Return the least noise multiplier, to a thousandth of it, with which ``steps`` steps stay within epsilon.

    Args:
        epsilon: The target, positive.
        delta: The target.
        sampling_rate: Of the Poisson sampling; 1 is every unit in every step.
        steps: Of the whole study.
        unit: Whose privacy.

    Raises:
        PrivacyError: A target is not positive and finite, or even a multiplier of 100,000 does not meet it.
    """
    if not 0.0 < epsilon < _LARGEST_EPSILON:
        raise PrivacyError(f"epsilon: found {epsilon!r}.", advice=f"Allowed is above 0 and below {_LARGEST_EPSILON:g}.")

    def cost(multiplier: float) -> float:
        return epsilon_pld([training(multiplier, sampling_rate=sampling_rate, steps=steps, unit=unit)], delta)

    low, high = _bracket(cost, epsilon)
    if math.isinf(high[0]):
        raise PrivacyError(f"No noise multiplier gives epsilon {epsilon:g} at delta {delta:g}.")
    return _least(cost, epsilon, low, high)


def rounds_affordable(
    epsilon: float,
    delta: float,
    *,
    noise_multiplier: float,
    sampling_rate: float,
    steps_per_round: int,
    unit: Unit = Unit.EXAMPLE,
    most: int = 100_000,
) -> int:
    """Return how many rounds stay within epsilon: 0 where not even one does, at most ``most``."""

    def cost(rounds: float) -> float:
        event = training(noise_multiplier, sampling_rate=sampling_rate, steps=int(rounds) * steps_per_round, unit=unit)
        return epsilon_pld([event], delta)

    low, high = (0.0, 0.0), (1.0, cost(1))
    while high[1] <= epsilon and high[0] < most:
        following = min(most, 2 * int(high[0] * max(1.0, epsilon / high[1])))  # grows at least with the square root
        low, high = high, (float(following), cost(following))
    if high[1] <= epsilon:
        return most
    while high[0] - low[0] > 1.0:
        guess = low[0] + (high[0] - low[0]) * (epsilon - low[1]) / (high[1] - low[1])
        middle = float(min(high[0] - 1, max(low[0] + 1, int(guess) + (1 if high[0] - guess > guess - low[0] else 0))))
        found = (middle, cost(middle))
        low, high = (found, high) if found[1] <= epsilon else (low, found)
    return int(low[0])


def training(noise_multiplier: float, *, sampling_rate: float, steps: int, unit: Unit = Unit.EXAMPLE) -> Event:
    """Return the event of ``steps`` noisy steps: sampling at full participation gains nothing and claims nothing.

    Raises:
        PrivacyError: The rate is not inside (0, 1], the multiplier not positive or there is no step.
    """
    if not (0.0 < sampling_rate <= 1.0 and 0.0 < noise_multiplier < math.inf and steps >= 1):
        raise PrivacyError(
            f"training: found noise multiplier {noise_multiplier!r}, sampling rate {sampling_rate!r}, {steps} steps.",
            advice="Allowed are a positive multiplier, a rate above 0 and at most 1, and at least one step.",
        )
    if sampling_rate == 1.0:
        return Gaussian(unit=unit, noise_multiplier=noise_multiplier, count=steps)
    return SampledGaussian(unit=unit, noise_multiplier=noise_multiplier, sampling_rate=sampling_rate, steps=steps)


def tau(share_deviation: float, shares: int) -> float:
    """Return by how much, in log density, a sum of ``shares`` discrete Gaussians differs from one of them.

    Kairouz, Liu, Steinke 2021, proposition 14: ``10 sum_{k=1}^{n-1} exp(-2 pi**2 s**2 k / (k + 1))``.
    """
    square = share_deviation * share_deviation
    return 10.0 * math.fsum(math.exp(-2.0 * math.pi**2 * square * k / (k + 1)) for k in range(1, shares))


def _together(gaussians: Sequence[Gaussian]) -> float:
    """Return the multiplier of the one Gaussian that is as private as all of these."""
    return 1.0 / math.sqrt(math.fsum(event.count / event.noise_multiplier**2 for event in gaussians))


_Point = tuple[float, float]  # a noise multiplier, or rounds, and what it costs


def _bracket(cost: "Callable[[float], float]", target: float) -> tuple[_Point, _Point]:
    """Return a multiplier that costs too much and one that does not; infinite where none does up to the largest."""
    point = (1.0, cost(1.0))
    costs_too_much = point[1] > target
    while _LEAST_MULTIPLIER < point[0] < _LARGEST_MULTIPLIER:
        ratio = min(16.0, max(1.0 / 4.0, point[1] / target))
        before = point
        multiplier = point[0] * ratio * (1.1 if costs_too_much else 1.0 / 1.1)
        point = (multiplier, cost(multiplier))
        if (point[1] > target) != costs_too_much:
            return (before, point) if costs_too_much else (point, before)
    return (point, (math.inf, 0.0)) if costs_too_much else ((point[0] * (1.0 - _WIDTH), math.inf), point)


def _least(cost: "Callable[[float], float]", target: float, low: _Point, high: _Point) -> float:
    """Return the upper end of the bracket, once it is narrow: false position in logarithms, aimed past the root."""
    aim = 1.0
    while high[0] > low[0] * (1.0 + _WIDTH):
        slope = math.log(low[1] / high[1]) if 0.0 < high[1] < low[1] < math.inf else 0.0
        share = math.log(low[1] / target) / slope if slope else 0.5
        guess = low[0] * (high[0] / low[0]) ** share * (1.0 + aim * _WIDTH / 2.0)
        middle = min(high[0] / (1.0 + _WIDTH / 4.0), max(low[0] * (1.0 + _WIDTH / 4.0), guess))
        found = (middle, cost(middle))
        low, high, aim = (low, found, -1.0) if found[1] <= target else (found, high, 1.0)
    return high[0]


@functools.lru_cache(maxsize=256)
def _loss(event: Event, interval: float) -> Any:
    """Return the privacy loss distribution of one event, composed with itself."""
    from dp_accounting.pld import privacy_loss_distribution as pld  # noqa: PLC0415 - takes 1.5 s to import

    if isinstance(event, Gaussian):  # the multiplier is relative to the relation's own sensitivity
        deviation = event.noise_multiplier / math.sqrt(event.count)
        return pld.from_gaussian_mechanism(deviation, value_discretization_interval=interval)
    if isinstance(event, SampledGaussian):
        one = pld.from_gaussian_mechanism(
            event.noise_multiplier, value_discretization_interval=interval, sampling_prob=event.sampling_rate
        )
        return one.self_compose(event.steps)
    if isinstance(event, NoisedCounts):
        one = pld.from_discrete_laplace_mechanism(event.epsilon, value_discretization_interval=interval)
        return one.self_compose(event.count)
    raise RuntimeError(f"No privacy loss distribution for {event.kind}.")


def _epsilon_at(events: Sequence[Event], delta: float, interval: float) -> float:
    losses = [_loss(event, interval) for event in events]
    together = functools.reduce(lambda left, right: left.compose(right), losses)
    return float(together.get_epsilon_for_delta(delta))


def _divergence(event: Event, order: float) -> float:
    if isinstance(event, Gaussian):  # Mironov, CSF 2017, proposition 7
        return event.count * order / (2.0 * event.noise_multiplier**2)
    if isinstance(event, SampledGaussian):
        return event.steps * _sampled(event.noise_multiplier, event.sampling_rate, order)
    if isinstance(event, NoisedCounts):
        return event.count * _pure(event.epsilon, order)
    share = event.sensitivity / (math.sqrt(event.shares) * event.share_deviation)
    spread = tau(event.share_deviation, event.shares)
    dimension = event.dimension
    return event.count * min(
        order / 2.0 * share**2 + spread * dimension, order / 2.0 * (share + math.sqrt(dimension) * spread) ** 2
    )


@functools.lru_cache(maxsize=4096)
def _sampled(noise_multiplier: float, sampling_rate: float, order: float) -> float:
    from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent  # noqa: PLC0415 - takes 1.5 s to import
    from dp_accounting.rdp import RdpAccountant  # noqa: PLC0415

    accountant = RdpAccountant([order])
    accountant.compose(PoissonSampledDpEvent(sampling_rate, GaussianDpEvent(noise_multiplier)))
    return float(accountant.rdp[0])


def _pure(epsilon: float, order: float) -> float:
    """Return the largest divergence of a mechanism with pure epsilon: that of randomised response.

    Bun and Steinke, TCC 2016, proposition 3.3; each term divided by ``exp(order epsilon)`` so that nothing overflows.
    """
    grown = -math.expm1(-2 * order * epsilon) - math.exp(-epsilon) * -math.expm1(-2 * (order - 1) * epsilon)
    return ((order - 1) * epsilon + math.log(grown / -math.expm1(-2 * epsilon))) / (order - 1)
