"""The mechanisms whose noise is added to a sum over sites, each in its two halves.

``constrain_sensitivity`` runs at the site, ``add_noise`` where the sum is (in the distributed mechanism each site adds
its share). Noise is added to the **sum** and its deviation does not depend on who took part; ``mean`` divides both by
the sites that did. Weights that depend on the data are not taken: the sensitivity would not be the clipping bound.

Both add discrete Gaussians to integers. A floating-point Gaussian has gaps that depend on the value it is added to
(Mironov, CCS 2012), and one draw can betray the next (Holohan and Braghin, 2021); on a grid there is nothing to see.

``ServerMechanism`` protects a site from everybody who sees the model; **not from the server**, which sees every update.
``DistributedMechanism`` needs a secure sum, and protects from the server too.
"""

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from hansa_common.errors import PrivacyError
from hansa_common.parameters import CHUNK, Vector
from hansa_common.privacy import events
from hansa_common.privacy.clipping import check_bound, clip_l2
from hansa_common.privacy.discrete_gaussian import DiscreteGaussian, Integers
from hansa_common.privacy.events import Relation, Unit
from hansa_common.privacy.keystream import Keystream

GRID_BITS: Final = 32  # the clipping bound is 2**32 to 2**33 steps of the server's grid
RING_BITS: Final = 32  # of the secure sum; 16 leave no room for noise at any number of sites
MOST_INFLATION: Final = 0.05  # of the sensitivity by rounding
_HEADROOM: Final = 8.0  # deviations of the sum's noise that must fit in the ring
_USED: Final = 0.99  # of the ring's half, by the noisiest sum on the finest grid
_TRIES: Final = 100  # of a rounding that succeeds with probability 1 - exp(-1/2) at least
_ROUNDING_SLACK: Final = 1e-9  # relative; squares are summed in float64


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerMechanism:
    """Site level, noise at the server: a discrete Gaussian on a fine grid.

    Each update is rounded to the grid before it is summed, so sums are exact, and neighbouring ones are
    ``bound / grid + sqrt(P) / 2`` steps apart at most. For Renyi divergences the discrete Gaussian is as good as the
    continuous one (Canonne et al. 2020, theorem 4). For privacy loss distributions it is so but for a statistical
    distance: its deviation ``s`` is at least ``2**27`` steps, where a continuous Gaussian rounded to the grid has the
    same probabilities to a relative ``1 / (24 s**2)``, which over ``P`` = 10**9 coordinates is below 1e-12 a round.
    """

    bound: float
    noise_multiplier: float
    """Deviation over sensitivity, under the relation."""
    dimension: int
    relation: Relation = Relation.ADD_OR_REMOVE_ONE

    def __post_init__(self) -> None:
        check_bound(self.bound)
        if self.bound < 2.0**-100 or self.bound > 2.0**100 or not 0.05 <= self.noise_multiplier <= 1e6:  # noqa: PLR2004
            raise PrivacyError(
                f"noise: found a clipping bound of {self.bound!r} and a multiplier of {self.noise_multiplier!r}.",
                advice="Allowed are a positive bound and a multiplier of 0.05 to 1,000,000.",
            )

    @property
    def grid(self) -> float:
        """Length of a step: a power of two, so that scaling is exact."""
        return float(math.ldexp(1.0, math.frexp(self.bound)[1] - 1 - GRID_BITS))

    @property
    def sensitivity(self) -> float:
        """How far neighbouring sums are apart, in steps."""
        return self.relation.sensitivity(self.bound / self.grid + math.sqrt(self.dimension) / 2.0)

    @property
    def deviation(self) -> float:
        """Of the noise on the sum, in the units of the update."""
        return self.noise_multiplier * self.sensitivity * self.grid

    def constrain_sensitivity(self, delta: Vector) -> Vector:
        """Return a site's update, clipped.

        Raises:
            ReleaseRefused: It is not finite.
        """
        return clip_l2(delta, self.bound).vector

    def steps(self, values: npt.NDArray[np.floating[Any]]) -> Integers:
        """Round values to the grid: float ``[N]`` to steps, ``int64 [N]``."""
        return np.rint(values.astype(np.float64, copy=False) / self.grid).astype(np.int64)

    def add_noise(self, total: Integers, stream: Keystream) -> None:
        """Add the noise to the sum, in place."""
        steps = math.nextafter(self.noise_multiplier * self.sensitivity, math.inf)
        DiscreteGaussian(Fraction(steps) ** 2, stream).add_to(total)

    def mean(self, total: Integers, *, sites: int) -> Vector:
        """Return the noisy sum over the number of sites that are in it: ``float32 [P]``."""
        return _mean(total, self.grid / sites)

    def event(self, *, count: int = 1) -> events.Gaussian:
        """Return what ``count`` rounds cost."""
        return events.Gaussian(
            unit=Unit.SITE, relation=self.relation, noise_multiplier=self.noise_multiplier, count=count
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DistributedMechanism:
    """Site level, distributed: each site adds its share of a discrete Gaussian to integers inside a secure sum.

    Kairouz, Liu, Steinke: The Distributed Discrete Gaussian Mechanism for Federated Learning with Secure Aggregation,
    ICML 2021. Rounding is stochastic, and drawn again until the norm is at most ``rounded_bound`` (their conditional
    rounding, proposition 22, with beta = exp(-1/2)).
    """

    bound: float
    coordinate_range: float
    """Each coordinate is clamped to +- this after clipping."""
    scale: float
    """Steps of the grid for a difference of 1."""
    noise_multiplier: float
    """Of the sum, where only ``honest`` sites added noise: deviation over sensitivity, under the relation."""
    dimension: int
    sites: int
    """All that the plan names."""
    honest: int
    """Honest survivors for certain, ``t - m``: others may add no noise, or know theirs."""
    relation: Relation = Relation.ADD_OR_REMOVE_ONE
    ring_bits: int = RING_BITS

    @classmethod
    def finest(
        cls,
        *,
        bound: float,
        coordinate_range: float,
        noise_multiplier: float,
        dimension: int,
        sites: int,
        honest: int,
        ring_bits: int = RING_BITS,
    ) -> Self:
        """Return the mechanism on the finest grid, of a power of two, whose noisy sums the ring holds.

        Raises:
            PrivacyError: No grid holds both updates and noise.
        """
        deviation = noise_multiplier * bound * (1.0 + MOST_INFLATION) / math.sqrt(honest)
        reach = sites * min(coordinate_range, bound) + _HEADROOM * math.sqrt(sites) * deviation
        return cls(
            bound=bound,
            coordinate_range=coordinate_range,
            scale=math.ldexp(1.0, math.floor(math.log2(_USED * 2.0 ** (ring_bits - 1) / reach))),
            noise_multiplier=noise_multiplier,
            dimension=dimension,
            sites=sites,
            honest=honest,
            ring_bits=ring_bits,
        )

    def __post_init__(self) -> None:
        values = (self.bound, self.coordinate_range, self.scale, self.noise_multiplier)
        if not all(0.0 < value < math.inf for value in values) or not 1 <= self.honest <= self.sites:
            raise PrivacyError(
                f"distributed noise: found {values} for {self.honest} honest of {self.sites} sites.",
                advice="Bound, range, scale and multiplier must be positive, and at least one site honest.",
            )
        if self.ring_bits != RING_BITS:
            raise PrivacyError(
                f"distributed noise: found a ring of {self.ring_bits} bits.",
                advice=f"Noise fits in a ring of {RING_BITS} bits only.",
            )
        if self.inflation > MOST_INFLATION:
            raise PrivacyError(
                f"distributed noise: rounding makes the sensitivity {self.inflation:.1%} larger.",
                advice=f"Raise the scale: allowed is {MOST_INFLATION:.0%}.",
            )
        used = self.sites * (self.largest + 1) + _HEADROOM * math.sqrt(self.sites) * self.share_deviation
        if used >= 2.0 ** (self.ring_bits - 1):
            raise PrivacyError(
                f"distributed noise: sums of up to {used:.3g} do not fit in a ring of {self.ring_bits} bits.",
                advice="Lower the scale, the coordinate range or the noise multiplier.",
            )
        if self.share_deviation < 0.5:  # noqa: PLR2004 - proposition 14 holds from there
            raise PrivacyError("distributed noise: a site's share has a deviation below half a step.")

    @property
    def scaled_bound(self) -> float:
        """The clipping bound in steps."""
        return self.bound * self.scale

    @property
    def rounded_bound(self) -> float:
        """Upper bound of an update's norm after rounding, in steps: ``sqrt(S**2 + P/4 + S + sqrt(P)/2)``."""
        scaled, root = self.scaled_bound, math.sqrt(self.dimension)
        return math.sqrt(scaled**2 + self.dimension / 4.0 + scaled + root / 2.0)

    @property
    def inflation(self) -> float:
        """By which share rounding makes the bound larger."""
        return self.rounded_bound / self.scaled_bound - 1.0

    @property
    def sensitivity(self) -> float:
        """How far neighbouring sums are apart, in steps."""
        return self.relation.sensitivity(self.rounded_bound)

    @property
    def share_deviation(self) -> float:
        """Of one site's noise, in steps: ``honest`` of them make up the whole."""
        return self.noise_multiplier * self.sensitivity / math.sqrt(self.honest)

    @property
    def largest(self) -> int:
        """The largest coordinate before noise, in steps."""
        return math.ceil(min(self.coordinate_range, self.bound) * self.scale)

    def constrain_sensitivity(self, delta: Vector, stream: Keystream) -> Integers:
        """Clip, clamp, scale and round a site's update: ``float32 [P]`` to ``int64 [P]``.

        Raises:
            ReleaseRefused: It is not finite.
        """
        clipped = clip_l2(delta, self.bound).vector
        rounded = np.empty(clipped.size, dtype=np.int64)
        limit = self.rounded_bound**2 * (1.0 - _ROUNDING_SLACK)
        for _ in range(_TRIES):
            if self._round(clipped, stream, rounded) <= limit:
                return rounded
        self._round(clipped, None, rounded)  # towards zero: never longer than what was clipped
        return rounded

    def add_noise(self, rounded: Integers, stream: Keystream) -> None:
        """Add one site's share of the noise, in place."""
        deviation = math.nextafter(self.share_deviation, math.inf)
        DiscreteGaussian(Fraction(deviation) ** 2, stream).add_to(rounded)

    def mean(self, total: Integers, *, sites: int) -> Vector:
        """Return the decoded sum over the number of sites that are in it: ``float32 [P]``."""
        return _mean(total, 1.0 / (self.scale * sites))

    def event(self, *, count: int = 1) -> events.DistributedGaussian:
        """Return what ``count`` opened or void rounds cost."""
        return events.DistributedGaussian(
            unit=Unit.SITE,
            relation=self.relation,
            sensitivity=self.sensitivity,
            share_deviation=self.share_deviation,
            shares=self.honest,
            dimension=self.dimension,
            count=count,
        )

    def _round(self, clipped: Vector, stream: Keystream | None, out: Integers) -> float:
        """Round to the grid, up with the probability of the fraction; return the squared norm."""
        squares = []
        for start in range(0, clipped.size, CHUNK):
            part = slice(start, start + CHUNK)
            values = np.clip(clipped[part].astype(np.float64), -self.coordinate_range, self.coordinate_range)
            values *= self.scale
            if stream is None:
                rounded = np.trunc(values)
            else:
                rounded = np.floor(values)
                uniform = stream.words(rounded.size).astype(np.float64) * 2.0**-64
                rounded += uniform < values - rounded
            out[part] = rounded.astype(np.int64)
            squares.append(float(np.dot(rounded, rounded)))
        return math.fsum(squares)


def _mean(total: Integers, factor: float) -> Vector:
    mean = np.empty(total.size, dtype=np.float32)
    for start in range(0, total.size, CHUNK):
        part = slice(start, start + CHUNK)
        mean[part] = total[part] * factor
    return mean
