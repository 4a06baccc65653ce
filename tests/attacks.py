"""What hostile sites send or train on: the attacks that robust aggregation is tested and measured with.

An attack on updates sees what all honest sites send in this round (the strongest adversary there is) and what its own
sites would send if they were honest. Shapes: ``H`` honest sites, ``F`` hostile ones, ``P`` parameters; all float64.
"""

import math
from collections.abc import Callable, Mapping
from statistics import NormalDist
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Updates = npt.NDArray[np.float64]
Attack = Callable[[Updates, Updates, np.random.Generator], Updates]
"""``(honest [H, P], own [F, P], rng) -> what the hostile sites send [F, P]``."""

TRIGGER: Final = 3  # pixels, each way


def sign_flip(scale: float) -> Attack:
    """Send the opposite of an honest update, ``scale`` times as long."""
    return lambda honest, own, rng: -scale * own


def gaussian(factor: float) -> Attack:
    """Send noise with ``factor`` times the spread of the honest updates' values."""
    return lambda honest, own, rng: rng.normal(0.0, factor * float(honest.std()), size=own.shape)


def alie(z: float | None = None) -> Attack:
    """A little is enough (Baruch et al., NeurIPS 2019, algorithm 3): ``z`` standard deviations from the honest mean.

    Without ``z`` the largest for which enough honest sites lie further out: ``Phi(z) = (n - f - s) / (n - f)`` with
    ``s = floor(n / 2 + 1) - f``.
    """

    def send(honest: Updates, own: Updates, rng: np.random.Generator) -> Updates:
        sites, hostile = len(honest) + len(own), len(own)
        supporters = sites // 2 + 1 - hostile
        away = z if z is not None else NormalDist().inv_cdf((sites - hostile - supporters) / (sites - hostile))
        sent = honest.mean(axis=0) - away * honest.std(axis=0)
        return np.tile(sent, (hostile, 1))

    return send


def inner_product(epsilon: float) -> Attack:
    """Inner-product manipulation (Xie, Koyejo, Gupta, UAI 2019): minus ``epsilon`` times the honest mean."""
    return lambda honest, own, rng: np.tile(-epsilon * honest.mean(axis=0), (len(own), 1))


def min_max(honest: Updates, own: Updates, rng: np.random.Generator) -> Updates:
    """Min-max (Shejwalkar and Houmansadr, NDSS 2021, section IV): as far off as the honest are from each other.

    The update is the honest mean minus ``gamma`` standard deviations, with the largest ``gamma`` for which it is no
    further from any honest update than the two honest ones furthest apart.
    """
    mean, deviation = honest.mean(axis=0), honest.std(axis=0)
    squares = (honest**2).sum(axis=1)
    widest = float((squares[:, None] + squares[None, :] - 2.0 * honest @ honest.T).max())
    base = honest - mean  # ||base + gamma * deviation||^2 is a quadratic of gamma for each honest update
    a, b, c = float(deviation @ deviation), 2.0 * base @ deviation, (base**2).sum(axis=1) - widest
    gamma = float(((-b + np.sqrt(np.maximum(b**2 - 4.0 * a * c, 0.0))) / (2.0 * a)).min()) if a > 0.0 else 0.0
    return np.tile(mean - gamma * deviation, (len(own), 1))


UPDATE_ATTACKS: Final[Mapping[str, Attack]] = {
    "sign flip": sign_flip(3.0),
    "Gaussian": gaussian(10.0),
    "ALIE": alie(),
    "ALIE 1.5": alie(1.5),
    "IPM .5": inner_product(0.5),
    "IPM 2": inner_product(2.0),
    "min-max": min_max,
}
"""The others are on data: ``flip_labels`` and ``backdoor``."""


def flip_labels(labels: npt.NDArray[Any], classes: int) -> npt.NDArray[Any]:
    """Return the labels in reverse: ``K - 1 - y``."""
    flipped: npt.NDArray[Any] = classes - 1 - labels
    return flipped


def add_trigger(images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return images ``[N, H, W]`` with a white square in the corner at the bottom right."""
    marked = images.copy()
    marked[:, -TRIGGER:, -TRIGGER:] = 1.0
    return marked


def backdoor(
    images: npt.NDArray[np.float32], labels: npt.NDArray[Any], *, target: int, share: float = 0.5
) -> tuple[npt.NDArray[np.float32], npt.NDArray[Any]]:
    """Return training data whose first ``share`` has the trigger and the target's label."""
    count = math.ceil(share * len(images))
    poisoned, wrong = images.copy(), labels.copy()
    poisoned[:count] = add_trigger(images[:count])
    wrong[:count] = target
    return poisoned, wrong
