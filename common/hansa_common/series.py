"""How long series become windows: ``[data.windows]`` of a plan, the same at every site.

Shapes: ``R`` rows of a unit, ``T`` rows of a window, ``F`` features, ``W`` windows of a unit.
"""

from typing import Annotated, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from hansa_common.settings import Strict

Name = Annotated[str, Field(min_length=1, max_length=200)]
Places = npt.NDArray[np.int64]


class WindowsContract(Strict):
    """``[data.windows]``: the array ``[T, F]`` holds T rows of one unit that follow each other."""

    columns: Annotated[tuple[Name, ...], Field(min_length=1, max_length=10_000)]
    """The F columns with the features, in this order."""
    unit: Name
    """The column that says of which engine, patient or machine a row is. A window is of one."""
    label: Name | None = None
    """The column that is learned: the class or the number."""
    horizon: Annotated[int, Field(ge=0, le=65_536)] = 0
    """How many rows after the last one of a window the label is read; above 0 it is a forecast."""
    remaining: bool = False
    """What is learned is how many rows of the unit are left, at most ``data.target.maximum``."""
    stride: Annotated[int, Field(ge=1, le=65_536)] = 1
    """Rows from one window of a unit to the next, counted from its end."""
    short: Literal["refuse", "drop", "pad"] = "refuse"
    """A unit with fewer rows breaks the contract, is left out, or gets its first row repeated in front."""
    unlabelled: Literal["refuse", "drop"] = "refuse"
    """A window without a label breaks the contract, or is left out."""

    @model_validator(mode="after")
    def _belongs_together(self) -> Self:
        if len(set(self.columns)) != len(self.columns):
            raise ValueError("columns: a column is named twice.")
        for key, name in (("unit", self.unit), ("label", self.label if not self.horizon else None)):
            if name in self.columns:
                forecast = "; with a horizon above 0 it may be, for then it is a forecast" if key == "label" else ""
                raise ValueError(f"{key}: '{name}' is a feature column too{forecast}.")
        if self.remaining and (self.label is not None or self.horizon or self.unlabelled != "refuse"):
            raise ValueError("remaining: is counted; leave label, horizon and unlabelled out.")
        return self

    def ends(self, rows: int, steps: int) -> Places:
        """Return the last row of each window of a unit, ascending: ``int64 [W]``.

        Args:
            rows: R. With ``short = "pad"`` there is one window where there are fewer than T before the horizon.
            steps: T.
        """
        last = rows - 1 - self.horizon
        least = min(steps - 1, last) if self.short == "pad" and last >= 0 else steps - 1
        return np.arange(last, least - 1, -self.stride, dtype=np.int64)[::-1]


def cut(values: npt.NDArray[np.float32], ends: Places, steps: int) -> npt.NDArray[np.float32]:
    """Return the windows of a unit's rows ``[R, F]`` that end there: ``float32 [W, T, F]``.

    What a window lacks in front is the first row.
    """
    if not len(ends):
        return np.zeros((0, steps, values.shape[1]), dtype=np.float32)
    front = np.repeat(values[:1], max(0, steps - 1 - int(ends[0])), axis=0)
    padded = np.concatenate([front, values])
    windows = np.lib.stride_tricks.sliding_window_view(padded, steps, axis=0)
    return np.ascontiguousarray(windows[ends + len(front) - steps + 1].transpose(0, 2, 1))
