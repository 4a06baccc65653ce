"""Which plans may stand in one table, and which plans a sweep or a curve is made of."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hansa_common.errors import PlanError, UsageError
from hansa_common.plan import StudyPlan, dump_plan
from hansa_server.trials.variants import (
    Variant,
    fractions,
    read_numbers,
    read_variants,
    read_whole_numbers,
    require_one_split,
    sweep,
    with_seed,
)

Make = Callable[..., StudyPlan]
EXAMPLE = {"kind": "example", "clipping_bound": 1.0, "noise_multiplier": 1.0, "epsilon": 8.0, "delta": 1e-5}
PRIVATE: dict[str, Any] = {
    "training": {"epochs": None, "steps": 3, "optimizer": "sgd"},
    "privacy": {"weights": "equal", "differential": EXAMPLE | {"sampling_rate": 0.1}},
}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"simulation": {"partition": "iid"}}, r"they differ in \[simulation\]"),
        ({"simulation": {"sites": 5}}, r"they differ in \[simulation\]"),
        ({"simulation": {"holdout": 0.1}}, r"they differ in \[simulation\]"),
        ({"data": {"minimum_examples": 20}}, r"they differ in \[data\]"),
        ({"evaluation": {"test": 0.3}}, r"they differ in \[evaluation\]"),
        (PRIVATE, "they differ in whom privacy.differential protects"),
    ],
)
def test_what_changes_the_split_is_refused(make_plan: Make, changes: dict[str, Any], says: str) -> None:
    if "training" in changes:
        changes = changes | {"training": {k: v for k, v in changes["training"].items() if v is not None}}
        changes = {"replaced": {"training": changes["training"]}, "privacy": changes["privacy"]}
    first, other = Variant(name="a", plan=make_plan()), Variant(name="b", plan=make_plan(**changes))
    with pytest.raises(UsageError, match=f"'a' and 'b' cannot be compared: {says}"):
        require_one_split([first, other])


@pytest.mark.parametrize(
    "changes",
    [
        {"training": {"learning_rate": 0.1}},
        {"rounds": {"count": 9}},
        {"model": {"name": "mlp"}},
        {"name": "other"},
        {"simulation": {"fraction": 0.5}},
        {"simulation": {"device": "cpu"}},
        {"privacy": {"clipping_bound": 1.0}},
        {"evaluation": {"ensemble": 2}, "rounds": {"count": 2}},
    ],
)
def test_what_leaves_the_split_alone_is_compared(make_plan: Make, changes: dict[str, Any]) -> None:
    require_one_split([Variant(name="a", plan=make_plan()), Variant(name="b", plan=make_plan(**changes))])


def test_files_of_one_name_are_told_apart_by_their_paths(tmp_path: Path, make_plan: Make) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.toml").write_text(dump_plan(make_plan()))
    paths = [tmp_path / "a" / "x.toml", tmp_path / "b" / "x.toml"]
    assert [variant.name for variant in read_variants(paths)] == [str(path) for path in paths]
    with pytest.raises(UsageError, match="named twice"):
        read_variants([paths[0], paths[0]])


def test_without_a_simulation_there_is_no_split(make_plan: Make) -> None:
    plan = make_plan().model_copy(update={"simulation": None})
    with pytest.raises(UsageError, match=r"has no \[simulation\]"):
        require_one_split([Variant(name="a", plan=plan)])
    with pytest.raises(UsageError, match=r"has no \[simulation\]"):
        fractions(plan, [0.5])


def test_a_sweep_is_every_pair(make_plan: Make) -> None:
    found = sweep(make_plan(), learning_rates=[0.1, 1.0], epochs=[1, 3])
    assert [(v.plan.training.learning_rate, v.plan.training.epochs) for v in found] == [
        (0.1, 1),
        (0.1, 3),
        (1.0, 1),
        (1.0, 3),
    ]
    assert found[1].name == "rate 0.1, 3 epochs"
    require_one_split(found)


def test_swept_epochs_take_the_place_of_steps(make_plan: Make) -> None:
    plan = make_plan(replaced={"training": {"steps": 5}})
    (found,) = sweep(plan, learning_rates=[], epochs=[2])
    assert (found.plan.training.steps, found.plan.training.epochs) == (None, 2)
    (same,) = sweep(plan, learning_rates=[0.1], epochs=[])
    assert same.plan.training.steps == 5


def test_a_sweep_of_nothing_or_of_one_value_twice_is_refused(make_plan: Make) -> None:
    with pytest.raises(UsageError, match="Nothing to sweep"):
        sweep(make_plan(), learning_rates=[], epochs=[])
    with pytest.raises(UsageError, match="twice"):
        sweep(make_plan(), learning_rates=[0.1, 0.10], epochs=[])
    with pytest.raises(PlanError, match="learning_rate"):
        sweep(make_plan(), learning_rates=[0.0], epochs=[])


def test_a_curve_ascends_and_changes_nothing_that_sites_approve(make_plan: Make) -> None:
    plan = make_plan()
    found = fractions(plan, [1.0, 0.25])
    assert [(v.name, v.x) for v in found] == [("25% of the data", 25.0), ("100% of the data", 100.0)]
    assert {v.plan.digest() for v in found} == {plan.digest()}
    with pytest.raises(PlanError, match="fraction"):
        fractions(plan, [1.5])


def test_a_seed_is_all_that_changes(make_plan: Make) -> None:
    plan = make_plan()
    assert with_seed(plan, 11).model_copy(update={"seed": plan.seed}) == plan
    with pytest.raises(PlanError, match="seed"):
        with_seed(plan, 2**60)


@pytest.mark.parametrize("text", ["", "1,", "a", "1;2", "1e", "nan", "inf", "0x1"])
def test_a_list_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--x: found"):
        read_numbers("--x", text)
    with pytest.raises(UsageError, match="--x: found"):
        read_whole_numbers("--x", text)


def test_lists_are_read() -> None:
    assert read_numbers("--x", "1e-3, .5,2.") == [1e-3, 0.5, 2.0]
    assert read_whole_numbers("--x", "42,43") == [42, 43]
    assert read_numbers("--x", None) == []
