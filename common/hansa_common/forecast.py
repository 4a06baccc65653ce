"""What differential privacy will cost a study at a site, computed from the plan before anyone trains.

Privacy of a person at the site, by noisy gradient steps (Abadi et al., CCS 2016): each step takes each of ``n``
training examples with probability ``batch / n``, clips each gradient to a bound ``C`` and adds noise of ``z C`` to
their sum. Each coordinate of the mean gradient then has noise of ``z C / batch``.

When no useful model is to be expected
--------------------------------------

Where the target needs ``z / batch > 1/4``: the noise on **every** coordinate is then above a quarter of the bound,
which is on the norm of **all** coordinates together. It is a rule of thumb, and generous: noise on the whole gradient
is ``sqrt(P)`` times as much, so large models need far less than a quarter. Staying below it promises nothing. "No
setting" is said where even batches of all ``n`` examples, the best there is, are above it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from hansa_common.errors import PrivacyError
from hansa_common.plan import StudyPlan
from hansa_common.privacy import (
    Gaussian,
    Unit,
    check_delta,
    epsilon_pld,
    noise_multiplier_for,
    rounds_affordable,
    training,
)

MOST_NOISE: Final = 0.25  # clipping bounds, on each coordinate of the mean gradient
MULTIPLIERS: Final = (0.5, 0.7, 1.0, 1.5, 2.0, 4.0)
_LARGER_BATCHES: Final = (1, 4)  # times the plan's


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """What a plan has a site do, whatever the privacy."""

    batch_size: int
    rounds: int
    steps: int | None = None
    """In a round; or else"""
    epochs: int | None = None

    def steps_per_round(self, size: int, batch_size: int) -> int:
        """Return the steps of one round at a site of ``size`` training examples."""
        if self.steps is not None:
            return self.steps
        return (self.epochs or 1) * math.ceil(size / batch_size)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """What one choice costs."""

    batch_size: int
    noise_multiplier: float
    epsilon: float
    noise: float
    """On each coordinate of the mean gradient, in clipping bounds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What one site can expect."""

    size: int
    """Training examples."""
    batch_size: int
    steps_per_round: int
    rounds: int
    delta: float
    target: float
    """Epsilon that must not be exceeded."""
    cells: tuple[Cell, ...]
    needed: float
    """The least noise multiplier that the target allows."""
    planned: float
    """The plan's noise multiplier."""
    rounds_within: int
    """How many of the rounds stay within the target with it."""

    needed_in_full: float
    """The same for batches of all examples."""

    @property
    def noise(self) -> float:
        """What ``needed`` puts on each coordinate of the mean gradient, in clipping bounds."""
        return self.needed / self.batch_size

    @property
    def is_useful(self) -> bool:
        """Whether a useful model is not out of the question; see the module."""
        return self.noise <= MOST_NOISE

    @property
    def is_hopeless(self) -> bool:
        """Whether it is, with any batch size."""
        return not self.is_useful and self.needed_in_full / self.size > MOST_NOISE

    def sentences(self) -> tuple[str, ...]:
        """Say it in plain words."""
        steps, epsilon = self.rounds * self.steps_per_round, f"epsilon {self.target:g}"
        need = (
            f"n = {self.size:,}, {steps:,} steps, {epsilon} at most: needs a noise multiplier of at least "
            f"{self.needed:.2f}, which is noise of {self.noise:.2g} clipping bounds on each coordinate."
        )
        lasts = (
            f"With a multiplier of {self.planned:g}, {epsilon} lasts for {self.rounds_within:,} of "
            f"{self.rounds:,} rounds."
        )
        if self.is_useful:
            return need, lasts
        if self.is_hopeless:
            end = f"no setting below {epsilon} keeps a useful model. Train fewer steps, or leave this site out."
        else:
            full = self.needed_in_full / self.size
            end = f"expect no useful model with these batches; batches of all would have noise of {full:.2g}."
        return need, lasts, f"{self.size:,} examples, {steps:,} steps: {end}"


def default_delta(sizes: Sequence[int]) -> float:
    """Return the largest power of ten below ``1 / n`` of the largest site."""
    return float(f"1e-{len(str(max(sizes)))}")


def forecast(
    size: int,
    effort: Effort,
    *,
    target: float,
    delta: float,
    planned: float = 1.0,
    multipliers: Sequence[float] = MULTIPLIERS,
) -> Forecast:
    """Return what a site of ``size`` training examples can expect.

    Raises:
        PrivacyError: Delta is not below ``1 / size``, or a target or multiplier is out of range.
    """
    if size < 1:
        raise PrivacyError(f"size of a site: found {size}.", advice="Allowed is at least 1.")
    check_delta(delta, units=size)
    batch = min(effort.batch_size, size)
    steps = effort.steps_per_round(size, batch)
    return Forecast(
        size=size,
        batch_size=batch,
        steps_per_round=steps,
        rounds=effort.rounds,
        delta=delta,
        target=target,
        cells=budget_table(size, effort, delta=delta, multipliers=sorted({*multipliers, planned})),
        needed_in_full=noise_multiplier_for(
            target, delta, sampling_rate=1.0, steps=effort.rounds * effort.steps_per_round(size, size)
        ),
        needed=noise_multiplier_for(target, delta, sampling_rate=batch / size, steps=effort.rounds * steps),
        planned=planned,
        rounds_within=rounds_affordable(
            target,
            delta,
            noise_multiplier=planned,
            sampling_rate=batch / size,
            steps_per_round=steps,
            most=effort.rounds,
        ),
    )


def budget_table(size: int, effort: Effort, *, delta: float, multipliers: Sequence[float]) -> tuple[Cell, ...]:
    """Return what each multiplier costs, with the plan's batch size and with larger ones.

    Raises:
        PrivacyError: A multiplier is not positive.
    """
    batches = sorted({min(size, effort.batch_size * times) for times in _LARGER_BATCHES})
    return tuple(_cell(size, batch, effort, multiplier, delta) for multiplier in multipliers for batch in batches)


def _cell(size: int, batch: int, effort: Effort, multiplier: float, delta: float) -> Cell:
    steps = effort.rounds * effort.steps_per_round(size, batch)
    event = training(multiplier, sampling_rate=batch / size, steps=steps)
    return Cell(
        batch_size=batch,
        noise_multiplier=multiplier,
        epsilon=epsilon_pld([event], delta),
        noise=multiplier / batch,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteForecast:
    """What hiding whole sites costs.

    Attributes:
        sites: How many the plan lists; 0 where it names none.
        rounds: Of the plan.
        epsilon: Of all rounds with the plan's multiplier, as a continuous Gaussian over all sites.
        budget: What the plan allows.
        delta: Of the plan.
        planned: The plan's multiplier.
        needed: The least multiplier that stays within the budget.
        affordable: How many rounds the plan's multiplier lasts.
        noise: On each coordinate of the mean update, in clipping bounds, with the needed multiplier.
    """

    sites: int
    rounds: int
    epsilon: float
    budget: float
    delta: float
    planned: float
    needed: float
    affordable: int
    noise: float

    def sentences(self) -> list[str]:
        """Say it in plain words."""
        said = [
            (
                f"{self.rounds:,} rounds with noise multiplier {self.planned:g} cost epsilon {self.epsilon:.3f} at "
                f"delta {self.delta:g}; the plan allows {self.budget:g}."
            ),
            (
                f"Epsilon {self.budget:g} needs a multiplier of {self.needed:.3g}; the planned one lasts "
                f"{self.affordable:,} rounds."
            ),
        ]
        if self.sites:
            said.append(
                f"Over {self.sites} sites that is noise of {self.noise:.3g} clipping bounds on each coordinate of the "
                "mean update."
            )
            if self.noise > MOST_NOISE:
                said.append(
                    f"No useful model is to be expected: more than {MOST_NOISE:g}. Take more sites, fewer rounds, or "
                    "protect persons instead (kind = 'example')."
                )
            if self.delta >= 1.0 / self.sites:
                said.append(f"Delta must be below 1 / {self.sites}: a site refuses the plan.")
        return said


def site_level(plan: StudyPlan) -> SiteForecast:
    """Return what a plan that hides whole sites costs.

    Raises:
        PrivacyError: No multiplier keeps to its budget.
    """
    noised = plan.privacy.differential
    assert noised is not None
    simulation = plan.simulation
    sites = len(plan.federation.sites) if plan.federation else (simulation.sites or 0) if simulation else 0
    rounds, planned = plan.rounds.count, noised.noise_multiplier
    needed = noise_multiplier_for(noised.epsilon, noised.delta, sampling_rate=1.0, steps=rounds, unit=Unit.SITE)
    return SiteForecast(
        sites=sites,
        rounds=rounds,
        epsilon=epsilon_pld([Gaussian(unit=Unit.SITE, noise_multiplier=planned, count=rounds)], noised.delta),
        budget=noised.epsilon,
        delta=noised.delta,
        planned=planned,
        needed=needed,
        affordable=rounds_affordable(
            noised.epsilon, noised.delta, noise_multiplier=planned, sampling_rate=1.0, steps_per_round=1, unit=Unit.SITE
        ),
        noise=needed / sites if sites else 0.0,
    )
