"""How figures that runs are compared by are written: a share in percent and points, an area, an error with its unit."""

from dataclasses import dataclass
from typing import Final, Literal

from hansa_common.metrics import IS_HIGHER_BETTER, VerdictFigure
from hansa_server.figures import NAMES
from hansa_server.report import notation

Figure = VerdictFigure | Literal["balanced_accuracy", "loss"]

_SHARES: Final = ("accuracy", "balanced_accuracy")
_ERRORS: Final = ("rmse", "reconstruction_error")  # of any size


def higher_is_better(figure: Figure) -> bool:
    """Tell whether more of a figure is better."""
    match figure:
        case "balanced_accuracy" | "loss":
            return figure != "loss"
        case known:
            return IS_HIGHER_BETTER[known]


@dataclass(frozen=True, slots=True, kw_only=True)
class Writer:
    """Writes one figure for people; what is missing is a dash.

    Attributes:
        figure: Which.
        unit: Of a predicted number; else empty.
    """

    figure: Figure
    unit: str = ""

    @property
    def name(self) -> str:
        """Its name in a sentence: ``accuracy``, ``RMSE``."""
        match self.figure:
            case "balanced_accuracy" | "loss":
                return self.figure.replace("_", " ")
            case known:
                return NAMES[known]

    @property
    def heading(self) -> str:
        """Its name above a column, with the unit of its values."""
        name = self.name[0].upper() + self.name[1:]
        return f"{name}, {self.unit}" if self._has_unit else name

    @property
    def gain_unit(self) -> str:
        """The unit of a difference; empty where it has none."""
        return "points" if self.figure in _SHARES else self.unit if self._has_unit else ""

    @property
    def is_share(self) -> bool:
        """Whether it is written in percent, and a difference in points."""
        return self.figure in _SHARES

    @property
    def _has_unit(self) -> bool:
        return self.figure == "rmse" and bool(self.unit)

    def value(self, value: float | None) -> str:
        """Write a value: ``83.1%``, ``0.852``, ``13.42``."""
        if value is None:
            return notation.MISSING
        if self.is_share:
            return notation.percent(value)
        return f"{value:#.4g}".removesuffix(".") if self.figure in _ERRORS else f"{value:.3f}"

    def gain(self, value: float | None) -> str:
        """Write by how much something is better, with its sign: ``+0.4``, ``-0.012``."""
        if value is None or self.is_share:
            return notation.points(value)
        size = f"{abs(value):.3g}" if self.figure in _ERRORS else f"{abs(value):.3f}"
        sign = "" if float(size) == 0.0 else "+" if value > 0.0 else notation.MINUS
        return sign + size

    def deviation(self, value: float | None) -> str:
        """Write a deviation behind a value or a gain: `` ± 0.4``; nothing where there is none."""
        if value is None:
            return ""
        if self.is_share:
            return f" ± {100 * value:.1f}"
        return f" ± {value:.2g}" if self.figure in _ERRORS else f" ± {value:.3f}"

    def tick(self, value: float) -> str:
        """Write a value at an axis."""
        return f"{100 * value:g}%" if self.is_share else f"{value:g}"

    def gain_tick(self, value: float) -> str:
        """Write a difference at an axis."""
        return (f"{100 * value:g}" if self.is_share else f"{value:g}").replace("-", notation.MINUS)
