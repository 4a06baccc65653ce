"""Bringing a signal into the layout of convolutions."""

from torch import Tensor, nn


class ChannelsFirst(nn.Module):
    """``[N, T, C]`` (or ``[N, C, T]``, or ``[N, T]`` with one channel) to ``[N, C, T]``."""

    def __init__(self, *, is_time_first: bool) -> None:
        super().__init__()
        self._is_time_first = is_time_first

    def forward(self, inputs: Tensor) -> Tensor:
        """Return a contiguous ``[N, C, T]``."""
        if inputs.ndim == 2:  # noqa: PLR2004  # [N, T]
            return inputs.unsqueeze(1)
        return inputs.transpose(1, 2).contiguous() if self._is_time_first else inputs
