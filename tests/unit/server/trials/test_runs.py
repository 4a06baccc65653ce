"""Which runs are run, which are read back, and what the table makes of them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hansa_common.errors import StudyFailed, StudyInterrupted, UsageError
from hansa_common.plan import StudyPlan
from hansa_server.engines.engine import Machine
from hansa_server.report.notation import MISSING
from hansa_server.results import Results
from hansa_server.store import RunFolder
from hansa_server.trials import runs
from hansa_server.trials.page import gained, render, spread, terminal_tables
from hansa_server.trials.table import Spread, Trials, tabulate
from hansa_server.trials.variants import Variant, fractions, sweep
from hansa_server.trials.writing import Writer

Make = Callable[..., StudyPlan]
MACHINE = Machine(engine="inline")


class Fake:
    """Stands in for a simulation; ``outcomes`` are accuracies, or errors to raise."""

    def __init__(self, make: Callable[..., Results], outcomes: list[Any]) -> None:
        self.make = make
        self.outcomes = iter(outcomes)
        self.ran: list[tuple[int, float]] = []

    def __call__(self, plan: StudyPlan, folder: RunFolder, **_options: Any) -> Results:
        self.ran.append((plan.seed, plan.training.learning_rate))
        outcome = next(self.outcomes)
        if isinstance(outcome, StudyInterrupted):
            raise outcome
        if isinstance(outcome, StudyFailed):
            failed = self.make(None, status="failed", reason=outcome.message)
            folder.write("metrics.json", failed.model_dump_json())
            raise outcome
        accuracy, worst = outcome
        found = self.make(accuracy, worst=worst, validation=accuracy - 0.01)
        folder.write("metrics.json", found.model_dump_json())
        return found


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch, make_run_results: Callable[..., Results]) -> Callable[[list[Any]], Fake]:
    monkeypatch.setattr(runs, "check", lambda _plan: ("a", "b"))

    def play(outcomes: list[Any]) -> Fake:
        fake = Fake(make_run_results, outcomes)
        monkeypatch.setattr(runs, "simulate", fake)
        return fake

    return play


def silent(*_args: Any) -> None:
    return


OUTCOMES = [
    (0.80, ("a", 0.6)),
    (0.84, ("b", 0.7)),
    (0.90, ("a", 0.5)),
    (0.92, ("b", 0.4)),
]


def both(make_plan: Make) -> tuple[Variant, ...]:
    return sweep(make_plan(), learning_rates=[0.1, 0.2], epochs=[])


def tables(make_plan: Make, play: Callable[[list[Any]], Fake], out: Path) -> Trials:
    play(OUTCOMES)
    variants = both(make_plan)
    return tabulate("sweep", variants, runs.run_all(variants, [1, 2], out, machine=MACHINE, tell=silent), out)


def test_a_seed_is_whole_before_the_next_begins(
    make_plan: Make, play: Callable[[list[Any]], Fake], tmp_path: Path
) -> None:
    fake = play(OUTCOMES)
    runs.run_all(both(make_plan), [1, 2], tmp_path, machine=MACHINE, tell=silent)
    assert fake.ran == [(1, 0.1), (1, 0.2), (2, 0.1), (2, 0.2)]


def test_what_is_done_is_not_run_again_after_a_stop(
    make_plan: Make, play: Callable[[list[Any]], Fake], tmp_path: Path
) -> None:
    variants = both(make_plan)
    play([*OUTCOMES[:2], StudyInterrupted("stopped")])
    with pytest.raises(StudyInterrupted) as caught:
        runs.run_all(variants, [1, 2], tmp_path, machine=MACHINE, tell=silent)
    assert "goes on from here" in caught.value.advice
    fake = play(OUTCOMES[2:])
    found = runs.run_all(variants, [1, 2], tmp_path, machine=MACHINE, tell=silent)
    assert fake.ran == [(2, 0.1), (2, 0.2)]
    assert [run.is_new for run in found] == [False, False, True, True]
    again = tabulate("sweep", variants, found, tmp_path)
    whole = tables(make_plan, play, tmp_path / "whole")
    assert again == whole


def test_a_run_that_failed_is_a_result_and_is_tried_again(
    make_plan: Make, play: Callable[[list[Any]], Fake], tmp_path: Path
) -> None:
    variants = both(make_plan)
    play([OUTCOMES[0], StudyFailed("it diverged")])
    found = runs.run_all(variants, [1], tmp_path, machine=MACHINE, tell=silent)
    trials = tabulate("sweep", variants, found, tmp_path)
    assert trials.rows[1].value is None
    assert trials.rows[1].runs[0].reason == "it diverged"
    assert trials.best is None
    assert "it diverged" in render(trials)
    fake = play(OUTCOMES[1:2])
    runs.run_all(variants, [1], tmp_path, machine=MACHINE, tell=silent)
    assert fake.ran == [(1, 0.2)]


def test_another_plan_in_the_folder_is_refused(
    make_plan: Make, play: Callable[[list[Any]], Fake], tmp_path: Path
) -> None:
    play(OUTCOMES)
    plan = make_plan()
    runs.run_all([Variant(name="x", plan=plan)], [1], tmp_path, machine=MACHINE, tell=silent)
    with pytest.raises(UsageError, match="holds a run of another plan"):
        runs.run_all(
            [Variant(name="x", plan=make_plan(rounds={"count": 4}))], [1], tmp_path, machine=MACHINE, tell=silent
        )


def test_names_that_make_one_folder_are_kept_apart() -> None:
    names = ["a b", "a-b", "A-b", "../a-b", "a/b", "ä"]
    folders = {runs._folder_name(name) for name in names}
    assert len(folders) == len(names)
    assert not any("/" in folder or folder.startswith(".") for folder in folders)


def test_the_table_is_that_of_a_second_computation(
    make_plan: Make, play: Callable[[list[Any]], Fake], tmp_path: Path
) -> None:
    trials = tables(make_plan, play, tmp_path)
    first, second = trials.rows
    assert trials.seeds == (1, 2)
    assert first.value is not None
    assert first.value.mean == pytest.approx(np.mean([0.80, 0.90]))
    assert first.value.deviation == pytest.approx(np.std([0.80, 0.90], ddof=1))
    assert second.gain is not None
    assert second.gain.mean == pytest.approx(np.mean([0.04, 0.02]))
    assert second.gain.deviation == pytest.approx(np.std([0.04, 0.02], ddof=1))
    assert (first.worst_seed, first.worst_site, first.worst_site_value) == (1, "a", 0.5)
    assert (second.worst_seed, second.worst_site, second.worst_site_value) == (1, "b", 0.4)
    assert trials.best == "rate 0.2"
    assert (first.bytes_up, first.bytes_down, first.seconds) == (1_000, 2_000, 3.0)
    assert Trials.model_validate_json(json.dumps(json.loads(trials.model_dump_json()))) == trials


def test_one_seed_has_no_spread() -> None:
    found = Spread.of([0.5, None])
    assert found == Spread(mean=0.5, deviation=None, lowest=0.5, highest=0.5)
    writer = Writer(figure="accuracy")
    assert spread(found, writer) == "50.0%"
    assert spread(Spread.of([0.5, 0.7]), writer) == "60.0% ± 14.1"
    assert gained(Spread.of([0.01, 0.03]), writer) == "+2.0 ± 1.4"
    assert spread(None, writer) == gained(None, writer) == MISSING


def test_the_page_is_whole_and_names_are_text(
    make_plan: Make, play: Callable[[list[Any]], Fake], tmp_path: Path
) -> None:
    trials = tables(make_plan, play, tmp_path)
    hostile = trials.model_copy(
        update={"rows": tuple(row.model_copy(update={"name": "<script>x</script>"}) for row in trials.rows)}
    )
    text = render(hostile.model_copy(update={"best": None}))
    assert "<script" not in text
    assert "85.0% ± 7.1" in text
    assert "+3.0 ± 1.4" in text
    assert "<circle" in text
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "").replace("http-equiv", "")
    figures, costs = terminal_tables(trials)
    assert (figures.row_count, costs.row_count) == (2, 2)


def test_a_curve_is_drawn_over_the_share_of_the_data(
    make_plan: Make, play: Callable[[list[Any]], Fake], tmp_path: Path
) -> None:
    play(OUTCOMES)
    variants = fractions(make_plan(), [0.5, 1.0])
    found = runs.run_all(variants, [1, 2], tmp_path, machine=MACHINE, tell=silent)
    text = render(tabulate("curve", variants, found, tmp_path))
    assert "From 50% of the data to 100% of the data: accuracy better by 3.0 ± 1.4 points" in text
    assert "% of each site&#39;s training data" in text or "% of each site&#x27;s training data" in text
    assert text.count("<path") >= 3
