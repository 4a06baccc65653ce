"""Initial weights, drawn from torch's global generator, which the caller has seeded."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


def glorot(module: "nn.Module") -> None:
    """Set weights of two and more axes to Glorot uniform values and all others to zero, in place.

    Glorot and Bengio, "Understanding the difficulty of training deep feedforward neural networks", AISTATS 2010,
    equation 16. For modules without normalisation layers, whose scales must not start at zero.
    """
    from torch import nn

    for parameter in module.parameters():
        if parameter.ndim > 1:
            nn.init.xavier_uniform_(parameter)
        else:
            nn.init.zeros_(parameter)
