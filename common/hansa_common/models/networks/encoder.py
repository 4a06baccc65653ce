"""A transformer encoder from layers that each see one example alone, and that adapters can be put on.

Queries, keys, values and outputs are linear layers of their own. Shapes: ``N`` examples, ``T`` tokens, ``F`` features,
``D`` width.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from hansa_common.models.initialisation import glorot

_EMBEDDING_DEVIATION = 0.02  # as BERT: Devlin et al., NAACL 2019, code


class TokenIds(nn.Module):
    """An embedding for each token id: ``[N, T]`` to ``[N, T, D]``."""

    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        nn.init.normal_(self.embedding.weight, std=_EMBEDDING_DEVIATION)

    def forward(self, inputs: Tensor) -> Tensor:
        """Look whole numbers up."""
        tokens: Tensor = self.embedding(inputs.long())
        return tokens


class StepTokens(nn.Module):
    """A linear map of each step: ``[N, T, F]`` or ``[N, T]`` to ``[N, T, D]``."""

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.projection = nn.Linear(features, width)
        glorot(self.projection)

    def forward(self, inputs: Tensor) -> Tensor:
        """Project each step."""
        tokens: Tensor = self.projection(inputs if inputs.ndim == 3 else inputs.unsqueeze(2))  # noqa: PLR2004  # [N, T]
        return tokens


class PositionedTokens(nn.Module):
    """Tokens plus a learned embedding of their positions."""

    def __init__(self, tokens: nn.Module, steps: int, width: int) -> None:
        super().__init__()
        self.tokens = tokens
        self.positions = nn.Embedding(steps, width)
        nn.init.normal_(self.positions.weight, std=_EMBEDDING_DEVIATION)

    def forward(self, inputs: Tensor) -> Tensor:
        """Map inputs to ``[N, T, D]``."""
        tokens: Tensor = self.tokens(inputs)
        # Each example looks its positions up by itself, so that it has a gradient of its own.
        places = torch.arange(tokens.shape[1], device=tokens.device).expand(tokens.shape[:2])
        positioned: Tensor = tokens + self.positions(places)
        return positioned


class FeatureTokens(nn.Module):
    """One token for each feature of a table: ``[N, F]`` to ``[N, F, D]`` by ``x_j * w_j + b_j``.

    Both start uniform in plus and minus 1 / sqrt(D), as the authors' code does.
    """

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(features, width))
        self.bias = nn.Parameter(torch.empty(features, width))
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -(width**-0.5), width**-0.5)

    def forward(self, inputs: Tensor) -> Tensor:
        """Scale each feature's vector by its value."""
        return inputs.unsqueeze(-1) * self.weight + self.bias


class Attention(nn.Module):
    """Multi-head self-attention (Vaswani et al., section 3.2.2), Glorot uniform, biases zero."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self._heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)
        glorot(self)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map ``[N, T, D]`` to ``[N, T, D]``; each token sees all."""
        query, key, value = (
            layer(tokens).unflatten(2, (self._heads, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        seen = functional.scaled_dot_product_attention(query, key, value)
        mixed: Tensor = self.output(seen.transpose(1, 2).flatten(2))
        return mixed


class Block(nn.Module):
    """``x + attention(norm(x))``, then ``x + dense(gelu(dense(norm(x))))``."""

    def __init__(self, *, width: int, heads: int, feedforward: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.dense1 = nn.Linear(width, feedforward)
        self.dense2 = nn.Linear(feedforward, width)
        self.dropout = nn.Dropout(dropout)
        glorot(self.dense1)
        glorot(self.dense2)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map ``[N, T, D]`` to ``[N, T, D]``."""
        tokens = tokens + self.dropout(self.attention(self.norm1(tokens)))
        widened = functional.gelu(self.dense1(self.norm2(tokens)))
        mapped: Tensor = tokens + self.dropout(self.dense2(widened))
        return mapped


class Encoder(nn.Module):
    """Tokens, blocks, a last normalisation, the mean over the tokens, and a linear output."""

    def __init__(
        self,
        *,
        tokens: nn.Module,
        width: int,
        layers: int,
        heads: int,
        feedforward: int,
        dropout: float,
        outputs: int,
    ) -> None:
        super().__init__()
        self.tokens = tokens
        self.blocks = nn.Sequential(
            *(Block(width=width, heads=heads, feedforward=feedforward, dropout=dropout) for _ in range(layers))
        )
        self.norm = nn.LayerNorm(width)
        self.output = nn.Linear(width, outputs)
        glorot(self.output)

    def forward(self, inputs: Tensor) -> Tensor:
        """Map inputs to ``[N, outputs]``."""
        tokens = self.blocks(self.tokens(inputs))
        answers: Tensor = self.output(self.norm(tokens).mean(1))
        return answers
