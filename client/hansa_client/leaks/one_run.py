"""A lower bound of epsilon from one run: what no algorithm with a smaller epsilon would have shown but by chance.

Steinke, Nasr, Jagielski, "Privacy Auditing with One (1) Training Run", NeurIPS 2023. Algorithm 1: each of ``m``
canaries is in the training data or not by a fair coin of its own; the adversary guesses the coins of ``r`` of them and
abstains from the rest. Theorem 5.2: for an (epsilon, delta)-differentially private algorithm, with
``W ~ Binomial(r, q)`` and ``q = e^epsilon / (1 + e^epsilon)``, at least ``v`` of the guesses are right with a
probability of at most

    P[W >= v] + 2 m delta max over i of P[v > W >= v - i] / i.

The bound is the largest epsilon that this refutes. How many guesses to make is not known beforehand: several numbers
are tried, each with its part of the error probability (Bonferroni), so the bound holds for the best of them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_HIGHEST = 50.0  # epsilon; a bound is far below, for r right guesses refute at most about log(r)
_PRECISION = 1e-4
SHARES = (1.0, 0.5, 0.25, 0.125)
"""Which parts of the canaries are guessed: all, or only those whose scores say most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """What one run shows.

    Attributes:
        epsilon: The lower bound; 0 where the guesses are no better than a coin.
        guesses: How many were made, ``r``.
        correct: How many were right, ``v``.
        canaries: ``m``.
        confidence: Probability that the bound is no higher than the truth.
    """

    epsilon: float
    guesses: int
    correct: int
    canaries: int
    confidence: float


def chance(epsilon: float, delta: float, *, canaries: int, guesses: int, correct: int) -> float:
    """Return the theorem's upper bound of the probability of at least ``correct`` right guesses."""
    masses = _binomial(guesses, 1.0 / (1.0 + math.exp(-epsilon)))
    beta = float(masses[correct:].sum())
    below = np.cumsum(masses[:correct][::-1])  # P[v > W >= v - i] for i = 1 ... v
    alpha = float((below / np.arange(1, correct + 1)).max(initial=0.0))
    return min(1.0, beta + 2.0 * canaries * delta * alpha)


def _binomial(trials: int, success: float) -> npt.NDArray[np.float64]:
    """Return the probabilities of 0 to ``trials`` successes."""
    counts = np.arange(trials + 1)
    logs = np.array([math.lgamma(number + 1.0) for number in range(trials + 1)])
    failure = math.log1p(-success) if success < 1.0 else -math.inf
    with np.errstate(invalid="ignore"):
        powers = counts * math.log(success) + np.where(counts == trials, 0.0, (trials - counts) * failure)
    return np.asarray(np.exp(logs[trials] - logs - logs[::-1] + powers))


def lower_bound(*, canaries: int, guesses: int, correct: int, delta: float, error: float) -> float:
    """Return the largest epsilon that so many right guesses refute, or 0.

    Args:
        canaries: ``m``.
        guesses: ``r``, at most ``m``.
        correct: ``v``, at most ``r``.
        delta: Of the claim that is tested; 0 tests pure differential privacy.
        error: Probability with which the bound may be too high.
    """
    low, high = 0.0, _HIGHEST
    while high - low > _PRECISION:
        middle = (low + high) / 2
        refuted = chance(middle, delta, canaries=canaries, guesses=guesses, correct=correct) <= error
        low, high = (middle, high) if refuted else (low, middle)
    return low


def audit(
    included: npt.NDArray[np.bool_],
    scores: npt.NDArray[np.float64],
    *,
    delta: float = 0.0,
    confidence: float = 0.95,
    shares: Sequence[float] = SHARES,
) -> Bound:
    """Guess each canary's coin by its score and return the best bound.

    Args:
        included: ``[m]``, the coins; the guesses do not look at them.
        scores: ``[m]``, the higher the likelier the canary was in.
        delta: Of the claim that is tested.
        confidence: Probability that the bound is no higher than the truth.
        shares: Which parts of the canaries to guess, decided before the run.
    """
    order = np.argsort(scores, kind="stable")  # equal scores stay in an order that knows nothing of the coins
    canaries, error = len(order), (1.0 - confidence) / len(shares)
    best = Bound(epsilon=0.0, guesses=0, correct=0, canaries=canaries, confidence=confidence)
    for share in shares:
        half = int(share * canaries) // 2
        if not half:
            continue
        correct = int(included[order[-half:]].sum()) + int((~included[order[:half]]).sum())
        epsilon = lower_bound(canaries=canaries, guesses=2 * half, correct=correct, delta=delta, error=error)
        if epsilon > best.epsilon or not best.guesses:
            best = Bound(epsilon=epsilon, guesses=2 * half, correct=correct, canaries=canaries, confidence=confidence)
    return best
