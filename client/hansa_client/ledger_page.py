"""What a privacy ledger says, as values for ``--json`` and as a page to read."""

from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from hansa_client.ledger import Ledger
from hansa_client.privacy_book import Account

_BLOCKS: Final = " ▁▂▃▄▅▆▇█"
_WIDTH: Final = 60  # columns of the curve
_HEIGHT: Final = 6  # rows
_LAST: Final = 8  # entries that are shown
_DIGEST: Final = 12  # characters of a study's digest that tell it from others


def summarise(ledger: Ledger) -> dict[str, Any]:
    """Return what the ledger says; epsilons are text, exact decimals."""
    terms, committed = ledger.terms, ledger.committed()
    return {
        "population": terms.population,
        "unit": terms.unit.value,
        "relation": terms.relation.value,
        "order": terms.order,
        "delta": str(terms.budget.delta),
        "budget": _text(terms.budget.epsilon),
        "spent": _text(ledger.spent()),
        "committed": _text(committed),
        "remaining": _text(terms.budget.remaining(committed)),
        "studies": [_study(ledger, account) for account in ledger.accounts()],
        "entries": [
            {"number": entry.number, "time": entry.time, "event": entry.event, "details": entry.details}
            for entry in ledger.entries()[-_LAST:]
        ],
        "curve": [_text(point) for point in ledger.curve()],
        "length": ledger.length,
        "head": ledger.head,
    }


def show(summary: dict[str, Any], console: Console) -> None:
    """Print the page."""
    console.print(Group(*_page(summary)), soft_wrap=True)


def draw(points: Sequence[Decimal], budget: Decimal) -> list[str]:
    """Draw the spent epsilon over the charges, the budget at the top: rows of block characters, the highest first."""
    width = min(_WIDTH, len(points))
    columns = [points[len(points) * (column + 1) // width - 1] for column in range(width)]
    levels = [min(8 * _HEIGHT, int((8 * _HEIGHT * point / budget).to_integral_value())) for point in columns]
    rows = []
    for row in reversed(range(_HEIGHT)):
        label = {_HEIGHT - 1: _text(budget), 0: "0"}.get(row, "")
        rows.append(f"{label:>10} │" + "".join(_BLOCKS[max(0, min(8, level - 8 * row))] for level in levels))
    rows.append(f"{'':>10} └" + "─" * len(levels))
    rows.append(f"{'':>12}{len(points)} charges")
    return rows


def _page(summary: dict[str, Any]) -> list[RenderableType]:
    unit = {"example": "a person", "site": "the site"}[summary["unit"]]
    change = {"add_or_remove_one": "being there or not", "replace_one": "being replaced"}[summary["relation"]]
    facts = Table.grid(padding=(0, 2))
    for name, value in (
        ("Population", summary["population"]),
        ("Protects", f"{unit} {change}"),
        ("Budget", f"epsilon {summary['budget']} at delta {summary['delta']}, for ever"),
        ("Spent", f"epsilon {summary['spent']}"),
        ("Reserved too", f"epsilon {summary['committed']} with what studies may still spend"),
        ("Remaining", f"epsilon {summary['remaining']}"),
    ):
        facts.add_row(Text(name, style="bold"), Text(value))
    studies = Table("study", "rounds", "charged", "epsilon alone", "of reserved", "state", box=None, pad_edge=False)
    for study in summary["studies"]:
        studies.add_row(
            study["study"][:_DIGEST],
            f"{study['charged_rounds']} of {study['rounds']}",
            f"{study['charged']} releases",
            study["spent"],
            study["reserved"],
            "closed" if study["closed"] else "open",
        )
    page: list[RenderableType] = [facts, Text("")]
    page += [studies] if summary["studies"] else [Text("No study has reserved anything.")]
    if summary["curve"]:
        page += [Text(""), Text("Spent epsilon, by the divergences that add up over studies", style="bold")]
        page += [Text(row) for row in draw([Decimal(point) for point in summary["curve"]], Decimal(summary["budget"]))]
    page += [Text(""), Text("Last entries", style="bold")]
    page += [Text(_line(entry)) for entry in summary["entries"]]
    return [*page, Text(f"{summary['length']} entries, an unbroken chain; its head: {summary['head']}", style="dim")]


def _line(entry: dict[str, Any]) -> str:
    when = datetime.fromtimestamp(entry["time"], UTC).strftime("%Y-%m-%d %H:%M")
    what = {
        "charged": "{study:.12}  round {round}, attempt {attempt}: {purpose}",
        "reserved": "{study:.12}  {rounds} rounds, {units} units",
        "closed": "{study:.12}",
    }.get(entry["event"], "")
    return f"{entry['number']:6}  {when}  {entry['event']:9} {what.format(**entry['details'])}".rstrip()


def _study(ledger: Ledger, account: Account) -> dict[str, Any]:
    return {
        "study": account.study,
        "rounds": account.rounds,
        "charged_rounds": len(account.charged_rounds),
        "charged": account.charged.total(),
        "spent": _text(ledger.epsilon_of(account.charged)),
        "reserved": _text(ledger.epsilon_of(account.reserved)),
        "closed": account.is_closed,
    }


def _text(value: Decimal) -> str:
    """Write a decimal without an exponent and without zeros at its end."""
    text = f"{value:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
