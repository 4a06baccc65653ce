from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tomli_w

from hansa_common.errors import ContractViolation, UsageError
from hansa_common.plan import StudyPlan
from hansa_common.preprocessing_plan import PreprocessingPlan
from hansa_server.describe_cli import describe, statistics_of, traffic_of

WARDS = ("north", "south", "west")
COLUMNS = [{"name": "age", "missing": "fill"}, {"name": "dose"}]


@pytest.fixture
def plan(make_plan: Callable[..., StudyPlan], tmp_path: Path) -> StudyPlan:
    rng = np.random.default_rng(0)
    lines = ["age,dose,ill,ward"]
    for ward, centre in (("north", 40.0), ("south", 80.0), ("west", 60.0)):
        for number in range(60):
            age = "" if ward == "west" and number % 2 else f"{centre + rng.normal():.3f}"
            lines.append(f"{age},{rng.normal():.3f},{'yes' if number % 3 else 'no'},{ward}")
    path = tmp_path / "wards.csv"
    path.write_text("\n".join(lines) + "\n")
    return make_plan(
        replaced={
            "data": {"kind": "table", "label": "ill", "classes": ["no", "yes"], "columns": COLUMNS},
            "preprocessing": {"missing": "mean"},
            "simulation": {"partition": "column:ward", "data": {"adapter": "csv", "path": str(path)}},
        }
    )


def test_it_says_what_there_is_and_where_sites_differ(plan: StudyPlan) -> None:
    age, dose = statistics_of(plan)
    assert set(age.means) == {"north", "south", "west"}
    assert age.means["south"] == pytest.approx(80.0, abs=0.5)
    assert age.missing == pytest.approx(1 / 6, abs=0.05)
    assert len(age.warnings) == 3
    assert "the mean at north is 1." in age.warnings[0]
    assert "standard deviations above the federation's" in age.warnings[1]
    assert "of the rows at west" in age.warnings[2]
    assert dose.warnings == ()
    assert dose.missing == 0.0


def test_data_that_sites_standardise_are_described_as_they_are(plan: StudyPlan) -> None:
    assert plan.data.kind == "table"
    columns = tuple(column.model_copy(update={"missing": "drop"}) for column in plan.data.columns)
    data = plan.data.model_copy(update={"standardise": "site", "columns": columns})
    bare = plan.model_copy(update={"data": data, "preprocessing": PreprocessingPlan()})
    age, _dose = statistics_of(bare)
    assert age.missing == 0.0
    assert age.means["south"] == pytest.approx(80.0, abs=0.5)


def test_of_texts_it_says_how_many_hold_each_word(make_plan: Callable[..., StudyPlan], tmp_path: Path) -> None:
    path = tmp_path / "notes.csv"
    rows = [
        f"{'fever' if ward != 'west' else 'rash'} today,{'yes' if n % 2 else 'no'},{ward}"
        for ward in WARDS
        for n in range(40)
    ]
    path.write_text("\n".join(["text,label,ward", *rows]))
    text = {"tokens": "words", "learn": "class", "vocabulary": ["cough", "fever"]}
    data = {"kind": "array", "shape": [3], "minimum": 0, "maximum": 3, "classes": ["no", "yes"], "text": text}
    simulation = {"partition": "column:ward", "data": {"adapter": "text", "path": str(path)}}
    model = {"name": "gru", "vocabulary": 4}
    plan = make_plan(replaced={"model": model, "data": data, "simulation": simulation})
    unknown, fever, cough = statistics_of(plan)
    assert (unknown.name, fever.name, cough.name) == ("unknown token", "'fever'", "'cough'")
    assert fever.means == {"north": 1.0, "south": 1.0, "west": 0.0}
    assert "'fever': the mean at west is 1.4 standard deviations below" in fever.warnings[0]
    assert (unknown.mean, cough.mean) == (1.0, 0.0)
    following = data | {"classes": ["today", "fever"], "text": {"tokens": "words", "learn": "next"}}
    plan = make_plan(
        replaced={"model": model, "data": following, "simulation": simulation, "evaluation": {"group": "row"}}
    )
    with pytest.raises(UsageError, match="The plan names the tokens"):
        statistics_of(plan)


def test_a_plan_without_preprocessing_is_described_by_means(make_plan: Callable[..., StudyPlan]) -> None:
    found = statistics_of(make_plan())
    assert len(found) == 64
    assert found[0].deviation == 0.0
    assert found[0].warnings == ()


def test_images_are_refused(make_plan: Callable[..., StudyPlan]) -> None:
    image = {"kind": "image", "channels": 1, "height": 8, "width": 8, "classes": list("0123456789")}
    with pytest.raises(UsageError, match="Images have no statistics"):
        statistics_of(make_plan(replaced={"data": image}))


def write_plan(plan: StudyPlan, path: Path) -> Path:
    path.write_text(tomli_w.dumps(plan.model_dump(mode="json", exclude_none=True)))
    return path


def test_images_have_no_table_and_still_a_size(
    make_plan: Callable[..., StudyPlan], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = {"kind": "image", "channels": 1, "height": 8, "width": 8, "classes": list("0123456789")}
    describe(write_plan(make_plan(replaced={"data": image}), tmp_path / "study.toml"))
    printed = capsys.readouterr().out
    assert "Images have no statistics" in printed
    assert "bytes: a site receives" in printed


def test_a_site_that_cannot_tell_has_one_line_for_all_features(
    plan: StudyPlan, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = (tmp_path / "wards.csv").read_text().splitlines()
    bare = [f",{line.partition(',')[2]}" if line.endswith("south") else line for line in lines]
    (tmp_path / "wards.csv").write_text("\n".join(bare))
    describe(write_plan(plan, tmp_path / "study.toml"))
    printed = capsys.readouterr().out
    assert printed.count("too few values") == 1
    assert "south has too few values to tell of 1 of 2 features: age\n" in printed


def test_data_that_break_the_contract_are_named(plan: StudyPlan) -> None:
    assert plan.data.kind == "table"
    narrow = plan.data.columns[0].model_copy(update={"maximum": 50.0})
    data = plan.data.model_copy(update={"columns": (narrow, *plan.data.columns[1:])})
    with pytest.raises(ContractViolation, match="age"):
        statistics_of(plan.model_copy(update={"data": data}))


def test_it_says_what_a_round_moves_by_what_the_plan_carries(make_plan: Callable[..., StudyPlan]) -> None:
    scaffold = make_plan(aggregation={"strategy": "scaffold"}, transport={"down": "bf16"})
    found = [traffic_of(plan) for plan in (make_plan(), scaffold, make_plan(transport={"codec": "topk"}))]
    assert [(one.up, one.down) for one in found] == [(2_600, 2_600), (5_200, 2_600), (17, 2_600)]
