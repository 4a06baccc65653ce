"""Several networks that answer together.

Shapes: ``M`` members, ``N`` examples, ``K`` classes.
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn


def mean_answer(outputs: Tensor, *, are_logits: bool) -> Tensor:
    """Return the mean of what the members answer.

    Args:
        outputs: ``[M, N, ...]``.
        are_logits: Of classes ``[M, N, K]``; then it is the logarithm of the mean of their probabilities, ``[N, K]``.
    """
    if are_logits:
        return outputs.log_softmax(-1).logsumexp(0) - math.log(len(outputs))
    return outputs.mean(0)


class MeanAnswer(nn.Module):
    """The mean of the members' probabilities, as its logarithm; or of their outputs.

    Args:
        members: Networks of one form.
        are_logits: The outputs are logits of classes.
    """

    def __init__(self, members: Iterable[nn.Module], *, are_logits: bool) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self._are_logits = are_logits

    def forward(self, inputs: Tensor) -> Tensor:
        """Map inputs to what one member gives: ``[N, K]`` log probabilities, or outputs."""
        return mean_answer(torch.stack([member(inputs) for member in self.members]), are_logits=self._are_logits)
