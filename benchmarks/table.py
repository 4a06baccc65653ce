"""A Markdown table on stdout."""

from collections.abc import Sequence


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table; all columns but the first are aligned to the right."""
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    print()
    for row in (head, rule, *rows):
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        print(f"| {' | '.join(cells)} |")
    print(flush=True)


def times(value: float) -> str:
    """Write a ratio: ``2.63 x``."""
    return f"{value:.2f} x" if value < 100 else f"{value:.0f} x"


def verdict(met: bool) -> str:
    """Say whether a goal was met."""
    return "met" if met else "**missed**"
