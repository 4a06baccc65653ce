import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hansa_common.errors import PrivacyError, UsageError
from hansa_common.forecast import MOST_NOISE, Effort, Forecast, budget_table, default_delta, forecast, site_level
from hansa_common.plan import StudyPlan
from hansa_common.privacy import SampledGaussian, Unit, epsilon_pld
from hansa_common.study_cli import app

STUDY = """
format = 1
name = "heart"
purpose = "Show what a budget costs."
[model]
name = "logistic"
[data]
kind = "table"
label = "ill"
classes = ["no", "yes"]
columns = [{ name = "age" }]
minimum_examples = 40
[training]
batch_size = 64
steps = 2
[rounds]
count = 3
"""


@pytest.fixture
def study(tmp_path: Path) -> str:
    path = tmp_path / "heart.toml"
    path.write_text(STUDY)
    return str(path)


def test_a_cell_costs_what_accounting_says() -> None:
    effort = Effort(batch_size=20, rounds=2, epochs=1)
    first, second = budget_table(100, effort, delta=1e-3, multipliers=(1.0,))
    assert (first.batch_size, second.batch_size) == (20, 80)
    for cell, steps in ((first, 2 * 5), (second, 2 * 2)):
        event = SampledGaussian(
            unit=Unit.EXAMPLE, noise_multiplier=1.0, sampling_rate=cell.batch_size / 100, steps=steps
        )
        assert cell.epsilon == epsilon_pld([event], 1e-3)
        assert cell.noise == 1.0 / cell.batch_size


def test_a_batch_is_never_larger_than_the_site() -> None:
    found = forecast(10, Effort(batch_size=64, rounds=3, steps=2), target=8.0, delta=1e-2, multipliers=(1.0,))
    assert found.batch_size == 10
    assert {cell.batch_size for cell in found.cells} == {10}
    assert found.needed == found.needed_in_full


def make(needed: float, needed_in_full: float) -> Forecast:
    return Forecast(
        size=30,
        batch_size=4,
        steps_per_round=100,
        rounds=15,
        delta=1e-3,
        target=8.0,
        cells=(),
        needed=needed,
        planned=1.0,
        rounds_within=1,
        needed_in_full=needed_in_full,
    )


def test_the_criterion_is_a_quarter_of_the_bound_on_each_coordinate() -> None:
    assert MOST_NOISE == 0.25
    useful, no_setting, larger = make(1.0, 20.0), make(1.01, 7.6), make(1.01, 7.5)
    assert (useful.is_useful, useful.is_hopeless) == (True, False)
    assert (no_setting.is_useful, no_setting.is_hopeless) == (False, True)
    assert (larger.is_useful, larger.is_hopeless) == (False, False)
    assert len(useful.sentences()) == 2
    assert no_setting.sentences()[2] == (
        "30 examples, 1,500 steps: no setting below epsilon 8 keeps a useful model. Train fewer steps, or leave this "
        "site out."
    )
    assert "batches of all would have noise of 0.25" in larger.sentences()[2]


@pytest.mark.slow
def test_thirty_patients_are_told_before_training() -> None:
    found = forecast(30, Effort(batch_size=4, rounds=15, steps=100), target=8.0, delta=1e-3)
    assert found.is_hopeless
    planned = next(cell for cell in found.cells if cell.noise_multiplier == 1.0 and cell.batch_size == 4)
    assert planned.epsilon == pytest.approx(38.9, abs=0.1)
    event = SampledGaussian(unit=Unit.EXAMPLE, noise_multiplier=found.needed, sampling_rate=4 / 30, steps=1500)
    assert epsilon_pld([event], 1e-3) <= 8.0
    assert "30 examples, 1,500 steps: no setting below epsilon 8" in found.sentences()[2]


@pytest.mark.parametrize(("sizes", "delta"), [([30], 1e-2), ([99, 3], 1e-2), ([100], 1e-3), ([60_000], 1e-5)])
def test_delta_is_the_largest_power_of_ten_below_one_over_n(sizes: list[int], delta: float) -> None:
    assert default_delta(sizes) == delta
    assert default_delta(sizes) * max(sizes) < 1 <= 10 * delta * (max(sizes) + 1)


def test_a_delta_or_size_that_means_nothing_is_refused() -> None:
    effort = Effort(batch_size=4, rounds=1, steps=1)
    for size, delta in ((100, 1e-2), (0, 1e-5), (10, math.nan)):
        with pytest.raises(PrivacyError):
            forecast(size, effort, target=8.0, delta=delta)


def test_the_command_prints_a_page(study: str) -> None:
    arguments = ["budget", study, "--sizes", "5,50", "--noise-multiplier", "3"]
    page = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
    assert page.exit_code == 0, page.exception
    for part in (
        "site of 5: 5 training examples",
        "3 rounds of 2 steps, batches of 50, delta 0.01",
        "epsilon, batch 50",
        "n = 50, 6 steps, epsilon 8 at most: needs a noise multiplier of at least 1.0",
        "With a multiplier of 3, epsilon 8 lasts for 3 of 3 rounds.",
    ):
        assert part in page.output


def test_the_command_prints_json(study: str) -> None:
    values = json.loads(CliRunner().invoke(app, ["budget", study, "--sizes", "5", "--json"]).output)
    assert [value["site"] for value in values] == ["site of 5"]
    assert values[0]["noise"] == values[0]["needed"] / 5
    assert values[0]["sentences"]


def test_without_sizes_the_smallest_site_allowed_is_shown(study: str) -> None:
    values = json.loads(CliRunner().invoke(app, ["budget", study, "--json", "--target-epsilon", "5"]).output)
    assert [(value["site"], value["size"]) for value in values] == [("the smallest site that the plan allows", 28)]


@pytest.mark.parametrize("sizes", ["", "a", "0", "3,-1", "1.5"])
def test_sizes_that_are_none_are_refused(study: str, sizes: str) -> None:
    assert isinstance(CliRunner().invoke(app, ["budget", study, "--sizes", sizes]).exception, UsageError)


def test_hiding_whole_sites_is_said_to_cost_what_an_accountant_says(make_plan: Callable[..., StudyPlan]) -> None:
    noise = {"kind": "site_server", "clipping_bound": 1.0, "noise_multiplier": 4.25, "epsilon": 8.0, "delta": 1e-5}
    plan = make_plan(
        privacy={"weights": "equal", "differential": noise},
        federation={"sites": [f"site-{number}" for number in range(10)]},
        rounds={"count": 50},
        replaced={"simulation": None},
    )
    found = site_level(plan)
    assert found.epsilon == pytest.approx(8.0, rel=0.01)
    assert found.needed == pytest.approx(4.25, rel=0.01)
    assert found.noise == pytest.approx(0.42, abs=0.01)
    assert 48 <= found.affordable <= 51
    assert "No useful model" in " ".join(found.sentences())
