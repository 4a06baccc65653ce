"""A recurrent network over steps, with a linear output.

Shapes: ``N`` examples, ``T`` steps, ``F`` features, ``D`` directions, ``H`` hidden.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from hansa_common.models.initialisation import glorot


class Recurrent(nn.Module):
    """GRU or LSTM, then pooling over the steps, dropout and one linear layer.

    Recurrent weights and biases start uniform in plus and minus 1 / sqrt(H), as PyTorch starts them, but the forget
    gates of an LSTM, which start open: their two biases add up to 1. The output starts Glorot uniform, its bias 0.
    Embeddings start standard normal.
    """

    def __init__(
        self,
        *,
        cell: Literal["gru", "lstm"],
        features: int,
        hidden: int,
        layers: int,
        bidirectional: bool,
        dropout: float,
        pooling: Literal["last", "mean"],
        vocabulary: int | None,
        embedding: int,
        outputs: int,
    ) -> None:
        super().__init__()
        self.embedding = None if vocabulary is None else nn.Embedding(vocabulary, embedding)
        kind = {"gru": nn.GRU, "lstm": nn.LSTM}[cell]
        self.recurrent = kind(
            features if vocabulary is None else embedding,
            hidden,
            num_layers=layers,
            bidirectional=bidirectional,
            dropout=dropout if layers > 1 else 0.0,  # PyTorch warns where there is nothing between layers
            batch_first=True,
        )
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(hidden * (2 if bidirectional else 1), outputs)
        self._pooling = pooling
        self._directions = 2 if bidirectional else 1
        if cell == "lstm":
            _open_forget_gates(self.recurrent, hidden)
        glorot(self.output)

    def forward(self, inputs: Tensor) -> Tensor:
        """Map ``float32 [N, T, F]`` or ``[N, T]`` to ``[N, outputs]``."""
        if self.embedding is not None:
            steps = self.embedding(inputs.long())
        else:
            steps = inputs if inputs.ndim == 3 else inputs.unsqueeze(2)  # noqa: PLR2004  # [N, T] has one feature
        states, final = self.recurrent(steps)
        if self._pooling == "mean":
            pooled = states.mean(1)
        else:
            last = final[0] if isinstance(final, tuple) else final  # of an LSTM the state, not the cell: [L * D, N, H]
            pooled = torch.cat(tuple(last[-self._directions :]), dim=1)
        answers: Tensor = self.output(self.dropout(pooled))
        return answers


def _open_forget_gates(recurrent: nn.RNNBase, hidden: int) -> None:
    """Set the biases of the forget gates, the second quarter of each vector, to 1 and 0."""
    for name, parameter in recurrent.named_parameters():
        if name.startswith("bias"):
            with torch.no_grad():
                parameter[hidden : 2 * hidden] = 1.0 if name.startswith("bias_ih") else 0.0
