"""How a figure is written for people: percentages, points, losses, sizes, durations; a missing one is an en dash."""

import math
from datetime import UTC, datetime

MISSING = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"
SCIENTIFIC_BELOW, SCIENTIFIC_FROM = 1e-3, 1e5
MINUTE, HOUR = 60, 3_600  # seconds


def percent(value: float | None) -> str:
    """Write a fraction as a percentage with one decimal: ``0.8312`` is ``83.1%``."""
    return MISSING if value is None else f"{100 * value:.1f}%"


def points(difference: float | None) -> str:
    """Write a difference of two fractions in signed percentage points: ``0.004`` is ``+0.4``."""
    if difference is None:
        return MISSING
    size = f"{abs(100 * difference):.1f}"
    if size == "0.0":
        return size
    return f"{'+' if difference > 0 else MINUS}{size}"


def points_apart(gap: float | None) -> str:
    """Write the size of a difference of two fractions: ``0.043`` is ``4.3 points``."""
    return MISSING if gap is None else f"{100 * gap:.1f} points"


def significant(value: float | None, digits: int = 4) -> str:
    """Write a number with so many digits or whole: ``21.7`` is ``21.70``; ``123456`` is ``123,456``."""
    if value is None:
        return MISSING
    text = f"{value:,.0f}" if abs(value) >= 10 ** (digits - 1) else f"{value:#.{digits}g}"
    return text.replace("-", MINUS)


def loss(value: float | None) -> str:
    """Write a loss with three decimals; a very small or large one in scientific notation."""
    if value is None:
        return MISSING
    return f"{value:.3f}" if value == 0 or SCIENTIFIC_BELOW <= abs(value) < SCIENTIFIC_FROM else f"{value:.2e}"


def count(value: float) -> str:
    """Write a number of things with commas between thousands."""
    return f"{value:,.0f}"


def plural(value: int, noun: str) -> str:
    """Write a count with its noun: ``1 site``, ``12 sites``, ``2 classes``."""
    ending = "" if value == 1 else "es" if noun.endswith("s") else "s"
    return f"{count(value)} {noun}{ending}"


def size(num_bytes: float) -> str:
    """Write a size in decimal units (1 kB is 1,000 bytes), three notation."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if num_bytes >= factor:
            scaled = num_bytes / factor
            return f"{scaled:,.{_decimals(scaled)}f} {unit}"
    return f"{num_bytes:,.0f} B"


def duration(seconds: float) -> str:
    """Write a time: ``0.42 s``, ``12.3 s``, ``3 min 05 s``, ``2 h 07 min``."""
    if round(seconds, 1) < MINUTE:
        return f"{seconds:.{_decimals(seconds)}f} s"
    whole = round(seconds)
    if whole < HOUR:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60:,} h {minutes % 60:02d} min"


def moment(started_at: str) -> str:
    """Write an ISO 8601 time to the minute, in UTC; what is no such time stays as it is."""
    try:
        return f"{datetime.fromisoformat(started_at).astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    except ValueError:
        return started_at


def ranges(numbers: tuple[int, ...]) -> str:
    """Write ascending whole numbers with runs joined: ``(3, 7, 8, 9)`` is ``3, 7 to 9`` with an en dash."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}{MISSING}{run[-1]}" for run in runs)


def _decimals(value: float) -> int:
    return max(0, 2 - int(math.log10(value))) if value >= 1 else 2
