import hashlib
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from hansa_common.model_plan import BackbonePlan
from hansa_common.models import ARCHITECTURES
from hansa_common.plan import StudyPlan, dump_plan, parse_plan
from hansa_server.report import model_card
from hansa_server.results import Results

Make = Callable[..., Results]


def test_it_has_every_section_and_the_four_figures(make_results: Make, plan: StudyPlan) -> None:
    card = model_card(make_results(baselines=True), plan)
    titles = re.findall(r"^## (.*)$", card, flags=re.MULTILINE)
    assert titles == [
        "Intended purpose",
        "Data",
        "Metrics",
        "How it was trained",
        "Limits",
        "Provenance",
        "How to load it",
    ]
    for name in ("Weighted mean accuracy", "Site mean accuracy", "Worst site", "Worst site against training alone"):
        assert f"* {name}: **" in card
    for site in ("Lübeck", "Hamburg", "Gdańsk", "Visby"):
        assert len(re.findall(rf"^\| {site} \|", card, flags=re.MULTILINE)) == 2


def test_limits_are_plain(make_results: Make, plan: StudyPlan) -> None:
    card = model_card(make_results(), plan)
    for limit in ("neither secure aggregation nor differential privacy", "at Visby", "one seed", "simulated"):
        assert limit in card.partition("## Limits")[2]
    assert "`--baselines`" in card
    assert "was not measured" in card
    assert "simulated" not in model_card(make_results(partition=None), plan)


def test_a_model_that_was_not_tested_says_so(make_results: Make, plan: StudyPlan) -> None:
    card = model_card(make_results(rounds=3, planned=20, finished=False), plan)
    assert "**It has not been tested.**" in card
    assert "**The study was stopped before its end.**" in card
    assert "interrupted from the keyboard" in card


def test_names_from_others_are_no_markup(make_results: Make, plan: StudyPlan) -> None:
    name = "<script>x</script>|[a](javascript:b)\n# Title `c`"
    card = model_card(make_results(names=(name, "b"), data_origin=name, status="failed", reason=name), plan)
    assert "<script" not in card
    assert "\n# Title" not in card
    assert "[a](" not in card.replace("\\[a\\](", "")
    rows = [line for line in card.splitlines() if line.startswith("| &lt;script")]
    assert [len(re.findall(r"(?<!\\)\|", row)) for row in rows] == [5, 8]


def test_the_code_it_shows_loads_the_model(
    make_results: Make, plan: StudyPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    built = ARCHITECTURES.find("cnn").build(plan.model_options(), plan.data)
    save_file(built.state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "plan.toml").write_text(dump_plan(plan))
    code = re.search(r"```python\n(.*?)```", model_card(make_results(), plan), flags=re.DOTALL)
    assert code is not None
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(code[1], names)
    network = names["network"]
    assert isinstance(network, torch.nn.Module)
    images = torch.zeros(2, *plan.data.feature_shape)
    assert torch.equal(network(images), built.eval()(images))


def test_the_code_for_a_model_with_a_backbone_loads_it(
    make_results: Make, plan: StudyPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    built = ARCHITECTURES.find("cnn").build(plan.model_options(), plan.data).eval()
    (tmp_path / "weights").mkdir()
    save_file(built.state_dict(), tmp_path / "weights" / "w.safetensors")
    digest = hashlib.sha256((tmp_path / "weights" / "w.safetensors").read_bytes()).hexdigest()
    backbone = BackbonePlan(file="w.safetensors", sha256=digest, frozen=True)
    plan = plan.model_copy(update={"model": plan.model.model_copy(update={"backbone": backbone})})
    travelled = {name: tensor for name, tensor in built.state_dict().items() if name.startswith("dense2")}
    save_file(travelled, tmp_path / "model.safetensors")
    (tmp_path / "plan.toml").write_text(dump_plan(plan))
    card = model_card(make_results(), plan)
    assert f"`w.safetensors` (SHA-256 `{digest}`)" in card
    code = re.search(r"```python\n(.*?)```", card, flags=re.DOTALL)
    assert code is not None
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(code[1], names)
    network = names["network"]
    assert isinstance(network, torch.nn.Module)
    images = torch.rand(2, *plan.data.feature_shape)
    assert torch.equal(network(images), built(images))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"kind": "array", "classes": ["a", "b"], "shape": [4, 5]}, "Arrays of 4 x 5"),
        (
            {"kind": "table", "classes": ["a", "b"], "label": "y", "columns": [{"name": "age"}, {"name": "sex"}]},
            "Tables with 2 columns, 2 features",
        ),
    ],
)
def test_every_kind_of_data_is_described(
    make_results: Make, plan: StudyPlan, data: dict[str, object], words: str
) -> None:
    other = parse_plan(
        {
            "name": "x",
            "purpose": "y",
            "model": {"name": "logistic"},
            "data": data,
            "training": {"steps": 5},
            "rounds": {"count": 1},
        }
    )
    card = model_card(make_results(classes=("a", "b")), other)
    assert words in card
    assert "5 steps of" in card
