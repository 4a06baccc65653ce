"""How close a reconstruction is to an original.

Shapes: ``N`` originals, ``M`` reconstructions, ``F`` features.
"""

import math

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

RECOVERED = 20.0
"""dB: from here on a person recognises the original at a glance."""
EXACT = 30.0
"""dB: from here on original and reconstruction look the same."""
_MOST = 120.0  # dB; float32 holds no more, and an exact copy would be infinite


def squared_distances(first: Floats, second: Floats) -> Floats:
    """Return the mean squared differences ``[N, M]`` between the rows of ``[N, F]`` and ``[M, F]``."""
    squares = (first**2).sum(axis=1)[:, None] + (second**2).sum(axis=1)[None, :] - 2.0 * first @ second.T
    return np.asarray(np.maximum(squares, 0.0) / first.shape[1])


def psnr(originals: Floats, reconstructions: Floats, value_range: float) -> Floats:
    """Return the peak signal-to-noise ratios ``[N, M]`` in dB, ``10 log10(range^2 / mean squared difference)``."""
    errors = squared_distances(originals, reconstructions)
    return np.asarray(10.0 * np.log10(value_range**2 / np.maximum(errors, value_range**2 * 10 ** (-_MOST / 10))))


def match(originals: Floats, reconstructions: Floats, value_range: float) -> tuple[list[int | None], list[float]]:
    """Pair originals with reconstructions, the closest pair first, each reconstruction at most once.

    Returns:
        For each original the reconstruction's position and the ratio in dB; ``None`` and minus infinity where there are
        fewer reconstructions than originals.
    """
    pairs: list[int | None] = [None] * len(originals)
    ratios = [-math.inf] * len(originals)
    if not len(reconstructions):
        return pairs, ratios
    left = psnr(originals, reconstructions, value_range)
    for _ in range(min(left.shape)):
        row, column = (int(place) for place in np.unravel_index(int(left.argmax()), left.shape))
        pairs[row], ratios[row] = column, float(left[row, column])
        left[row, :] = left[:, column] = -math.inf
    return pairs, ratios
