"""What the command line leaves out of a long benchmark."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """All of a benchmark, where nothing is named.

    Attributes:
        rounds: So many in place of the benchmark's own.
        partitions: Only these rows.
        strategies: Only these columns.
        out: Where its runs are kept, so that it goes on where it was broken off; nowhere where ``None``.
    """

    rounds: int | None = None
    partitions: tuple[str, ...] = ()
    strategies: tuple[str, ...] = ()
    out: Path | None = None

    def chosen(self, rows: Collection[str], columns: Collection[str]) -> tuple[list[str], list[str]]:
        """Return which rows and columns are asked for, in the benchmark's order.

        Raises:
            SystemExit: One of them is not there.
        """
        return _among("--partition", self.partitions, rows), _among("--strategy", self.strategies, columns)


def _among(option: str, asked: tuple[str, ...], known: Collection[str]) -> list[str]:
    if unknown := sorted(set(asked) - set(known)):
        raise SystemExit(f"{option}: there is no {', '.join(unknown)} here; there are: {', '.join(known)}")
    return [name for name in known if not asked or name in asked]
