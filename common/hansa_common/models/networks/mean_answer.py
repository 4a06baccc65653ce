"""Several networks that answer together.

Shapes: ``M`` members, ``N`` examples, ``K`` classes.
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn


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
        outputs = torch.stack([member(inputs) for member in self.members])  # [M, N, ...]
        if self._are_logits:
            return outputs.log_softmax(-1).logsumexp(0) - math.log(len(outputs))
        return outputs.mean(0)
