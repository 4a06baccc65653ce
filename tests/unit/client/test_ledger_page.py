import io
import json
import os
from decimal import Decimal
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from hansa_client.ledger import Ledger, create
from hansa_client.ledger_page import draw, show, summarise
from hansa_client.privacy_book import Purpose
from hansa_client.site_cli import app
from hansa_common.errors import UsageError
from hansa_common.privacy import Budget, DistributedGaussian, Event, Relation, Unit

STUDY = "ab" * 32


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    """Of the one kind of event whose cost needs no library: these tests are about the page."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    event: list[Event] = [
        DistributedGaussian(unit=Unit.SITE, sensitivity=10.0, share_deviation=100.0, shares=4, dimension=9)
    ]
    made = create(
        tmp_path / "ledger",
        "hospital",
        unit=Unit.SITE,
        relation=Relation.ADD_OR_REMOVE_ONE,
        budget=Budget.of("8", "0.01"),
    )
    made.reserve(STUDY, event * 5, rounds=5, units=10)
    for number in range(1, 4):
        made.charge(STUDY, task=f"run:{number}", round_number=number, attempt=1, events=event, purpose=Purpose.TRAINING)
    return made


def test_the_summary_is_what_the_ledger_says(ledger: Ledger) -> None:
    summary = summarise(ledger)
    assert Decimal(summary["spent"]) == ledger.spent()
    assert Decimal(summary["committed"]) == ledger.committed()
    assert Decimal(summary["remaining"]) == Decimal(8) - ledger.committed()
    assert [Decimal(point) for point in summary["curve"]] == ledger.curve()
    assert (summary["budget"], summary["delta"], summary["unit"]) == ("8", "0.01", "site")
    assert summary["studies"][0]["study"] == STUDY
    assert (summary["studies"][0]["charged_rounds"], summary["studies"][0]["rounds"]) == (3, 5)
    assert (summary["length"], summary["head"]) == (5, ledger.head)


def test_the_page_names_budget_studies_and_entries(ledger: Ledger) -> None:
    console = Console(width=100, record=True, file=io.StringIO())
    show(summarise(ledger), console)
    text = console.export_text()
    for part in (
        "epsilon 8 at delta 0.01, for ever",
        "the site being there or not",
        "abababababab  3 of 5",
        "3  ",
        "round 3, attempt 1: training",
        "abababababab  5 rounds, 10 units",
        ledger.head,
        "3 charges",
    ):
        assert part in text
    assert "share_deviation" not in text


def test_the_curve_rises_to_the_budget() -> None:
    rows = draw([Decimal(number) for number in range(1, 7)], Decimal(6))
    bars = [row.split("│")[1] for row in rows[:6]]
    assert bars == ["     █", "    ██", "   ███", "  ████", " █████", "██████"]
    assert rows[0].startswith("         6 │")
    assert rows[5].startswith("         0 │")


def test_a_long_curve_is_thinned_and_ends_with_the_last_charge() -> None:
    rows = draw([Decimal(1)] * 999 + [Decimal(4)], Decimal(4))
    assert all(len(row) <= 12 + 60 for row in rows)
    assert rows[0].endswith("█")
    assert rows[-1].strip() == "1000 charges"


def test_the_command_prints_pages_and_json(ledger: Ledger, tmp_path: Path) -> None:
    page = CliRunner().invoke(app, ["ledger", "--folder", str(tmp_path)])
    assert page.exit_code == 0
    assert "hospital" in page.output
    values = CliRunner().invoke(app, ["ledger", "hospital", "--json", "--folder", str(tmp_path)])
    assert json.loads(values.output) == [summarise(ledger)]
    none = CliRunner().invoke(app, ["ledger", "--folder", str(tmp_path / "other")])
    assert "No population" in none.output
    wrong = CliRunner().invoke(app, ["ledger", "customers", "--folder", str(tmp_path)])
    assert isinstance(wrong.exception, UsageError)


def test_a_budget_is_fixed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hansa_client.folder.SiteFolder.membership", lambda folder: None)
    arguments = ["budget", "patients", "--epsilon", "2.5", "--delta", "1e-5", "--folder", str(tmp_path)]
    first = CliRunner().invoke(app, arguments)
    assert first.output.startswith("'patients' has epsilon 2.5 at delta 0.00001, at Renyi order ")
    assert isinstance(CliRunner().invoke(app, arguments).exception, UsageError)
