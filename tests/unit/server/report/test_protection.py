import csv
import io
import re
from collections.abc import Callable
from html import unescape
from pathlib import Path

import pytest
from rich.console import Console

from hansa_common.combinations import decide
from hansa_common.plan import StudyPlan
from hansa_server.cli import summarise
from hansa_server.report import metrics_csv, model_card, partition_svg, render
from hansa_server.report.comparison import compare_all
from hansa_server.report.narrative import headlines, result_sentences
from hansa_server.report.protection import account, spent
from hansa_server.results import Results

Make = Callable[..., Results]
NO_COUNTS = {"site_server", "masked site_server", "example", "site_distributed"}
CLAIM = "hides one site's update within each opened sum from the server and up to 1 other site."
WORST = "Visby"


def words(page: str) -> str:
    """Return what a reader sees: without tags and style, the plan and what only a pointer shows."""
    body = page.partition("<body>")[2]
    body = re.sub(r"<title>.*?</title>", "", body, flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", body)).split())


def section(page: str, name: str) -> str:
    found = re.search(rf'<section id="{name}">(.*?)</section>', page, flags=re.DOTALL)
    assert found
    return words("<body>" + found[1])


def test_a_page_with_protection_is_whole(make_protected: Make, case: str) -> None:
    page = render(make_protected(case, coordinator=True, rounds=4), "")
    text = words(page)
    assert not re.search(r"\b(None|nan|none of None|null|inf)\b", text)
    assert section(page, "privacy")
    for index in re.findall(r"<svg[^>]*aria-label=\"([^\"]*)\"", page):
        if "Validation accuracy" in index and not case.startswith("example"):
            assert "worst" not in index


def test_figures_that_a_site_keeps_are_neither_drawn_nor_written(make_protected: Make, case: str) -> None:
    results = make_protected(case, rounds=4)
    page = render(results, "")
    if case == "example, noised counts":
        assert WORST in section(page, "sites")
        return
    why = (
        "kept at the sites by differential privacy"
        if case in NO_COUNTS
        else "masked: each site sees its own bar at home"
    )
    assert why in section(page, "sites")
    assert "<svg" not in page.partition('id="sites"')[2].partition("</section>")[0]
    assert "at home" in section(page, "partition")
    assert [entry.figure for entry in headlines(results) if entry.name == "Site mean and worst site"] == ["\N{EN DASH}"]
    assert "Worst site against training alone" not in page
    assert WORST not in section(page, "scores")
    assert "site where it does worst" not in page


def test_without_counts_there_is_no_accuracy_but_the_coordinators_own(make_protected: Make, case: str) -> None:
    page = render(make_protected(case, coordinator=True, rounds=4), "")
    if case not in NO_COUNTS:
        assert "test examples correctly" in words(page)
        return
    before_scores = page.partition('<section id="scores">')[0].replace("66.0%", "")
    assert "%" not in words(before_scores)
    assert "classifies 66.0% of the coordinator's own 2,000 examples correctly" in words(page)
    assert "Differential privacy let no counts of right and wrong answers out" in words(page)
    alone = render(make_protected(case, rounds=4), "")
    assert "%" not in words(alone.partition('<section id="cost">')[0])
    assert "the coordinator has no test set of its own" in section(alone, "scores")


@pytest.mark.parametrize("case", ["example, noised counts", "masked example, noised counts"])
def test_noised_counts_are_marked_and_nothing_is_judged_by_them(make_protected: Make, case: str) -> None:
    results = make_protected(case, rounds=4, baselines=True)
    assert compare_all(results) == ()
    page = render(results, "")
    for part in ("scores", "confusion", "rounds"):
        assert "noise" in section(page, part)
    assert "counted with noise" in words(page.partition("</header>")[0])
    if case == "example, noised counts":
        assert headlines(results)[3].name == "Epsilon, at most"
    assert "classifies about" in result_sentences(results, ())
    assert "0.000" not in section(page, "scores")  # a loss that was never let out
    assert "Loss of the shared model" not in page
    found = csv.DictReader(io.StringIO(metrics_csv(results), newline=""))
    assert [row["figure"] for row in found if row["figure"].endswith("loss")] == []


def test_the_section_says_what_there_was_and_what_it_is_worth(make_protected: Make, case: str) -> None:
    results = make_protected(case, rounds=4)
    assert results.protection is not None
    masks, noise = results.protection.masks, results.protection.noise
    text = section(render(results, ""), "privacy")
    decision = decide(
        strategy="fedavg", ring_bits=32 if masks else None, kind=noise.kind if noise else None, codec="float32"
    )
    assert decision.text in text
    assert (CLAIM in text) == (masks is not None)
    assert ("neither the correctness of the sum" in text) == (masks is not None)
    if masks is not None:
        assert "32 bits" in text
        assert "±0.5" in text
        assert "3 sites" in text
    if noise is not None:
        for figure in ("0.75", "4.25", "1e-05", noise.unit):
            assert figure in text
        assert ("3.42 of 8" in text) == (noise.kind != "example")
        assert ("at most 8" in text) == (noise.kind == "example")
        assert ("The coordinator: it reads" in text) == (noise.kind == "site_server")
    assert ("a dishonest server can isolate" in text.lower()) == (case == "changing")


def test_whoever_adds_the_noise_reads_what_the_masks_leave(make_protected: Make) -> None:
    alone, masked = (
        section(render(make_protected(name, rounds=1), ""), "privacy") for name in ("site_server", "masked site_server")
    )
    assert "The coordinator: it reads each site's update and adds the noise" in alone
    assert "The coordinator: it reads the sum of the updates, provided" in masked
    assert "not from the coordinator" in alone


def test_void_attempts_are_counted_by_reason_and_escaped(make_protected: Make) -> None:
    results = make_protected("changing", rounds=4)
    assert account(results).repeated == ((3, "Visby <b>fell</b> silent", 2), (3, "2 of 4 sites answered", 1))
    page = render(results, "")
    assert "<b>fell" not in page
    assert "3 2 Visby <b>fell</b> silent" in section(page, "privacy")
    assert "3,,,void_attempts,3" in metrics_csv(results)


def test_without_protection_one_line_says_so(make_results: Make) -> None:
    text = section(render(make_results(rounds=1), ""), "privacy")
    assert "used neither secure aggregation nor differential privacy" in text
    assert "could read each site's update" in text
    assert len(re.findall(r"<dl|<table|<h3", render(make_results(), "").partition('id="privacy"')[2][:600])) == 0


def test_names_stay_text_in_a_protected_page(make_protected: Make, case: str) -> None:
    hostile = "<script>alert(1)</script>"
    page = render(make_protected(case, rounds=3, names=(hostile, "b"), study=hostile, data_origin=hostile), "")
    assert "<script" not in page


def test_a_protected_study_that_stopped_has_a_page(make_protected: Make, case: str) -> None:
    results = make_protected(case, rounds=3, planned=9, finished=False)
    text = words(render(results, ""))
    assert "Stopped after 3 of 9 rounds" in text
    assert "None" not in text
    if case in NO_COUNTS:
        assert "lets no counts of right and wrong answers out" in result_sentences(results, ())


def test_sites_that_let_their_figures_out_are_shown_beside_those_that_do_not(
    make_protected: Make, make_results: Make
) -> None:
    results, open_ = make_protected("masked", rounds=2), make_results(rounds=2)
    results = results.model_copy(update={"sites": (open_.sites[0], *results.sites[1:])})
    page = render(results, "")
    assert "3 of 4 sites kept sizes and class counts at home" in section(page, "partition")
    assert "Who holds what: 1 site" in page
    assert "Who holds what: 1 site" in partition_svg(results)


def test_the_card_and_the_table_leave_out_what_is_missing(make_protected: Make, plan: StudyPlan, case: str) -> None:
    results = make_protected(case, rounds=4)
    card, table = model_card(results, plan), metrics_csv(results)
    assert "## Privacy" in card
    assert "neither secure aggregation nor differential privacy" not in card
    assert not re.search(r"\b(None|nan)\b", card + table)
    assert "kept their numbers of examples at home: Lübeck, Hamburg, Gdańsk, Visby." in card
    assert (CLAIM in card) == (results.protection is not None and results.protection.masks is not None)
    if case in NO_COUNTS:
        assert "%" not in card
        assert "How good it is at the sites is not known" in card
    elif case != "example, noised counts":
        assert "may be much worse at one site" in card
    assert "examples:" not in table


def test_the_last_lines_of_a_simulation_say_what_is_known(make_protected: Make, case: str) -> None:
    console = Console(file=io.StringIO(), width=200)
    summarise(console, make_protected(case, rounds=3, coordinator=True), Path("runs/x"))
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "None" not in text
    assert "66.0%" in text
    if case in NO_COUNTS:
        assert re.search(r"weighted mean +- +no counts", text)
        assert text.count("%") == 1
    if case != "example, noised counts":
        assert "--baselines" not in text
    if case in {"site_server", "site_distributed"}:
        assert re.search(r"epsilon spent +3\.42 +of 8, delta 1e-05", text)


def test_a_bound_that_moves_shows_where_it_began_and_ended(make_protected: Make) -> None:
    results = make_protected("site_server", rounds=2)
    assert results.protection is not None
    assert results.protection.noise is not None
    moving = results.protection.noise.model_copy(update={"quantile": 0.5, "clipping_bound": 0.75})
    rounds = tuple(entry.model_copy(update={"clipping_bound": 0.75 + entry.round}) for entry in results.rounds)
    protection = results.protection.model_copy(update={"noise": moving})
    page = render(results.model_copy(update={"protection": protection, "rounds": rounds}), "")
    assert "0.75 to 2.75" in section(page, "privacy")
    assert "follows the 0.5 quantile" in section(page, "privacy")


@pytest.mark.parametrize(
    ("epsilon", "written"), [(3.4141, "3.42"), (8.0, "8.00"), (0.0001, "0.01"), (float("inf"), "no bound")]
)
def test_epsilon_is_never_written_smaller_than_it_is(epsilon: float, written: str) -> None:
    assert spent(epsilon) == written
