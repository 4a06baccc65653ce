"""How a text becomes token ids: ``[data.text]`` of a plan, the same at every site and wherever the model is used.

Shapes: ``T`` steps of an example, ``V`` tokens of the vocabulary, ``W`` windows of a text.
"""

import re
import unicodedata
from collections.abc import Sequence
from typing import Annotated, Final, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from hansa_common.settings import Strict

PADDING: Final = 0
"""The id that stands where a text has no token."""
UNKNOWN: Final = 1
"""The id of every token that is not in the vocabulary."""
FIRST: Final = 2
"""The id of the vocabulary's first token; the others follow in order."""
ROW: Final = "row"
"""The column that says of which row, or from which line on, an example is, where the data have none of this name."""
MOST_TOKENS: Final = 50_000  # a plan with so many words is about 1 MiB, and its statistics 400 KB

_WORD: Final = re.compile(r"\w+|[^\w\s]")

Token = Annotated[str, Field(min_length=1, max_length=100)]
Ids = npt.NDArray[np.int64]


class TextContract(Strict):
    """``[data.text]``: the array ``[T]`` holds ids of the tokens of a text."""

    tokens: Literal["characters", "words"]
    """``words``: in lower case, letters and digits that stand together, and each other sign that is no blank."""
    learn: Literal["class", "next"]
    """``class``: each text has one; its first T tokens are read. ``next``: which token follows T tokens of a text."""
    vocabulary: Annotated[tuple[Token, ...], Field(max_length=MOST_TOKENS)] = ()
    """The tokens that have an id of their own; with ``learn = "next"`` these are the classes."""
    stride: Annotated[int, Field(ge=1, le=65_536)] = 1
    """With ``learn = "next"``: tokens from one example of a text to the next."""

    @model_validator(mode="after")
    def _belongs_together(self) -> Self:
        if (self.learn == "next") == bool(self.vocabulary):
            raise ValueError("vocabulary: goes with learn = 'class'; with 'next' the classes are the vocabulary.")
        if self.learn == "class" and self.stride != 1:
            raise ValueError("stride: goes with learn = 'next'; of a text with a class there is one example.")
        self.require_tokens(self.vocabulary, key="vocabulary")
        return self

    def require_tokens(self, names: Sequence[str], *, key: str) -> None:
        """Return if each name is one token, as a text is split, and none is there twice.

        Raises:
            ValueError: One is not; a token that no text could ever give would be learned by nobody.
        """
        for name in names:
            if (tokens := self.split(name)) != [name]:
                instead = f"; it is split into {', '.join(map(repr, tokens))}" if tokens else ""
                raise ValueError(f"{key}: {name!r} is not one of the {self.tokens} that a text is split into{instead}.")
        if len(set(names)) != len(names):
            raise ValueError(f"{key}: a token is named twice.")

    def split(self, text: str) -> list[str]:
        """Return the tokens of a text.

        It is brought to Unicode's form NFC, and every end of line to one line feed: what looks the same is the same,
        wherever it was typed.
        """
        plain = unicodedata.normalize("NFC", text.replace("\r\n", "\n").replace("\r", "\n"))
        if self.tokens == "characters":
            return list(plain)
        return _WORD.findall(unicodedata.normalize("NFC", plain.lower()))  # some have a form of their own in lower case


class Tokeniser:
    """Turns texts into examples.

    Args:
        text: The plan's ``[data.text]``.
        tokens: The V tokens of the vocabulary, in the plan's order.
        steps: T.
    """

    def __init__(self, text: TextContract, tokens: Sequence[str], steps: int) -> None:
        self._text = text
        self._steps = steps
        self._ids = {token: number for number, token in enumerate(tokens, start=FIRST)}

    def ids(self, text: str) -> Ids:
        """Return the id of each token of a text, whatever its length."""
        return np.asarray([self._ids.get(token, UNKNOWN) for token in self._text.split(text)], dtype=np.int64)

    def example(self, text: str) -> npt.NDArray[np.float32]:
        """Return ``float32 [T]``, what a model is given for a text: its first T tokens, or its last where it goes on.

        Padding is in front, so that a recurrent network reads the text last.
        """
        ids = self.ids(text)
        kept = ids[: self._steps] if self._text.learn == "class" else ids[-self._steps :]
        return np.pad(kept, (self._steps - len(kept), 0)).astype(np.float32)

    def windows(self, text: str) -> tuple[npt.NDArray[np.float32], Ids]:
        """Return what stands before each ``stride``-th token of a text, and that token.

        The first is the second token of the text. One that is not in the vocabulary is nothing to learn, and left out.

        Returns:
            ``float32 [W, T]``, padded in front, and the place of each following token in the vocabulary, ``[W]``.
        """
        ids = self.ids(text)
        ends = np.arange(1, len(ids), self._text.stride)
        ends = ends[ids[ends] != UNKNOWN]
        padded = np.concatenate([np.zeros(self._steps, dtype=np.float32), ids.astype(np.float32)])
        before = np.lib.stride_tricks.sliding_window_view(padded, self._steps)
        return before[ends], ids[ends] - FIRST
