"""Reconstruction without optimisation: a dense first layer's gradient is made of the examples themselves.

For ``y = W x + b`` the chain rule gives ``dL/dW[h] = sum_i d[i, h] x[i]`` and ``dL/db[h] = sum_i d[i, h]``: the ratio
of a unit's two gradients is a weighted mean of the examples that activate it, and an example itself where one alone
does.

* Phong, Aono, Hayashi, Wang, Moriai, "Privacy-Preserving Deep Learning via Additively Homomorphic Encryption", IEEE
  TIFS 13(5), 2018 (first as IACR ePrint 2017/715): one example.
* Geiping, Bauermeister, Droege, Moeller, "Inverting Gradients", NeurIPS 2020, proposition 3.1: anywhere in a network.
* Boenisch, Dziedzic, Schuster, Shamsabadi, Shumailov, Papernot, "When the Curious Abandon Honesty", EuroS&P 2023,
  section 4: batches, as ReLU units that one example alone activates occur without anybody's doing.

An adversary tells single examples from means without knowing the originals: units that the same example alone
activates give the same ratio, up to rounding and noise, and means agree less closely. So many that agree closely
come first, and looser agreement only for what is still missing.

Shapes: ``H`` units of the first layer, ``F`` features, ``M`` reconstructions.
"""

from dataclasses import dataclass

import numpy as np

from hansa_client.leaks.similarity import Floats, squared_distances
from hansa_common.parameters import ParameterSpec, Vector

_EXACT = tuple(10.0 ** (exponent / 2) for exponent in range(-18, -9))
_NEAR = tuple(10.0 ** (exponent / 2) for exponent in range(-9, -5))
"""Mean squared differences, in squares of the value range, up to which two ratios count as the same: 90 to 50 dB, where
means rarely agree, and 45 to 30 dB."""
_CLEAR, _PAIR = 6, 2  # units that agree: so many means do not agree by accident as closely as ``_EXACT``
_PASSES = (
    *((tolerance, _CLEAR) for tolerance in _EXACT),
    *((tolerance, _PAIR) for tolerance in _EXACT),
    *((tolerance, _CLEAR) for tolerance in _NEAR),
    *((tolerance, _PAIR) for tolerance in _NEAR),
    (_NEAR[-1], 1),
)
_FEW, _SPARE = 16, 4  # examples up to which more candidates are made than there are examples, and how many times more
_SMALLEST = 1e-3  # of the largest bias gradient; the ratio of smaller ones is mostly rounding
_OUTSIDE = 0.1  # of the value range, by which noise may push a reconstruction beyond it


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """The values that a feature may have, as the data contract or common knowledge tells."""

    low: float
    high: float

    @property
    def width(self) -> float:
        """Highest minus lowest value."""
        return self.high - self.low


def dense_first_layer(spec: ParameterSpec, delta: Vector, features: int) -> tuple[Floats, Floats] | None:
    """Return the part of an update that is the first layer's: weights ``[H, F]`` and biases ``[H]``.

    ``None`` where the model's first tensors are no dense layer over the features.
    """
    tensors = list(spec.split(delta))[:2]
    if len(tensors) < 2 or tensors[0][1].ndim != 2 or tensors[0][1].shape[1] != features:  # noqa: PLR2004
        return None
    weights, biases = (tensor.astype(np.float64) for _, tensor in tensors)
    return (weights, biases) if biases.shape == weights.shape[:1] else None


def invert(weights: Floats, biases: Floats, value_range: Range, *, most: int) -> Floats:
    """Return the examples that an update of a dense first layer gives away, the surest first.

    Args:
        weights: Change of the weights ``[H, F]``, of one step of gradient descent or anything proportional to it.
        biases: Change of the biases ``[H]``.
        value_range: What a feature may be.
        most: How many reconstructions the adversary makes at most: the examples that can be in the update.

    Returns:
        ``float64 [M, F]``, ``M <= most``, within the range.
    """
    active = np.abs(biases) > _SMALLEST * np.abs(biases).max(initial=0.0)
    weights, biases = weights[active], biases[active]
    ratios = weights / biases[:, None]
    margin = _OUTSIDE * value_range.width
    inside = (ratios.min(axis=1) >= value_range.low - margin) & (ratios.max(axis=1) <= value_range.high + margin)
    ratios, sizes = ratios[inside], np.abs(biases[inside])
    distances = squared_distances(ratios, ratios) / value_range.width**2
    left = np.ones(len(ratios), dtype=bool)
    found: list[Floats] = []
    wanted = _SPARE * most if most <= _FEW else most
    for tolerance, fewest in _PASSES:
        agree = (distances < tolerance) & left[:, None] & left[None, :]
        while len(found) < wanted and (counts := agree.sum(axis=1)).max(initial=0) >= fewest:
            centre = int(counts.argmax())
            group = agree[centre]
            # The larger the bias gradient, the less noise in the ratio: least squares weighs by its square.
            mean = np.average(ratios[group], axis=0, weights=sizes[group] ** 2)
            found.append(np.clip(mean, value_range.low, value_range.high))
            left &= distances[centre] >= _NEAR[-1]  # what is found once is not found again
            agree &= left[:, None] & left[None, :]
    candidates = np.asarray(found).reshape(len(found), weights.shape[1])
    return _ends(candidates, most, value_range) if most <= _FEW else candidates


def _ends(candidates: Floats, most: int, value_range: Range) -> Floats:
    """Put last what lies between two others: means of two examples of one class agree nearly as closely as examples."""
    tolerance = _EXACT[-1] * value_range.width**2
    between = np.array([_is_between(place, candidates, tolerance) for place in range(len(candidates))], dtype=bool)
    return np.asarray(candidates[np.argsort(between, kind="stable")][:most])


def _is_between(place: int, candidates: Floats, tolerance: float) -> bool:
    """Tell whether a candidate is within ``tolerance`` of the line between two others, and of neither of them."""
    others = np.delete(candidates, place, axis=0) - candidates[place]
    products = others @ others.T / candidates.shape[1]
    squares = np.diag(products)
    first, second = squares[:, None], squares[None, :]
    lengths = np.maximum(first + second - 2.0 * products, 1e-30)
    share = np.clip((first - products) / lengths, 0.0, 1.0)  # of the way from the first to the second
    nearest = first - 2.0 * share * (first - products) + share**2 * lengths
    apart = (first > tolerance) & (second > tolerance)
    return bool(((nearest < tolerance) & apart).any())
