"""Which plans may personalise or carry control variates, and what is refused when they are read."""

from collections.abc import Callable
from typing import Any

import pytest

from hansa_common.errors import PlanError
from hansa_common.personalisation import PersonalisationPlan
from hansa_common.plan import StudyPlan, dump_plan, parse_plan, plan_from_json
from hansa_common.settings import read_toml

EXAMPLE = {
    "kind": "example",
    "clipping_bound": 1.0,
    "noise_multiplier": 2.0,
    "epsilon": 8.0,
    "delta": 1e-4,
    "sampling_rate": 0.05,
}
MASKED = {"weights": "equal", "secure_aggregation": {"coordinate_range": 1.0, "cohort": "changing"}}
SGD = {"optimizer": "sgd", "learning_rate": 0.5, "batch_size": 16, "steps": 4}


@pytest.mark.parametrize("method", ["fedbn", "fedper", "ditto", "finetune"])
def test_a_method_is_a_part_of_what_sites_approve_and_comes_back_from_a_file(
    make_plan: Callable[..., StudyPlan], method: str, tmp_path: Any
) -> None:
    plan, without = make_plan(personalisation={"method": method}), make_plan()
    assert plan.digest() != without.digest()
    (tmp_path / "plan.toml").write_text(dump_plan(plan))
    assert parse_plan(read_toml(tmp_path / "plan.toml")) == plan
    assert plan_from_json(plan.model_dump_json()) == plan
    assert plan.keeps_state == (method != "finetune")
    assert not without.keeps_state


@pytest.mark.parametrize(
    ("section", "word"),
    [
        ({"method": "fedavg"}, "method"),
        ({"method": "fedbn", "local": ["dense2"]}, "local"),
        ({"method": "fedper", "pull": 0.5}, "pull"),
        ({"method": "ditto", "epochs": 2}, "epochs"),
        ({"method": "finetune", "local": ["dense2"]}, "local"),
        ({"method": "ditto", "pull": -1.0}, "pull"),
        ({"pull": 1.0}, "method"),
    ],
)
def test_a_key_of_another_method_is_refused(
    make_plan: Callable[..., StudyPlan], section: dict[str, Any], word: str
) -> None:
    with pytest.raises(PlanError, match=word):
        make_plan(personalisation=section)


@pytest.mark.parametrize("method", ["fedbn", "fedper", "ditto", "finetune"])
def test_persons_are_not_protected_by_halves_and_masks_go_with_all(
    make_plan: Callable[..., StudyPlan], method: str
) -> None:
    with pytest.raises(PlanError, match="without noise"):
        make_plan(
            personalisation={"method": method},
            privacy={"weights": "equal", "differential": EXAMPLE},
            replaced={"training": SGD},
        )
    assert make_plan(personalisation={"method": method}, privacy=MASKED).personalisation is not None


def test_nobody_can_evaluate_a_model_that_is_nowhere_whole(make_plan: Callable[..., StudyPlan]) -> None:
    with pytest.raises(PlanError, match="holdout"):
        make_plan(personalisation={"method": "fedper"}, simulation={"holdout": 0.1})
    assert make_plan(personalisation={"method": "ditto"}, simulation={"holdout": 0.1}).keeps_state


@pytest.mark.parametrize(
    "training",
    [{"optimizer": "adam"}, {"momentum": 0.9}, {"schedule": "cosine"}, {"warmup_rounds": 1}, {"gradient_clip": 1.0}],
)
def test_control_variates_are_for_plain_sgd(make_plan: Callable[..., StudyPlan], training: dict[str, Any]) -> None:
    assert make_plan(aggregation={"strategy": "scaffold"}).carried == 2
    with pytest.raises(PlanError, match=f"training.{next(iter(training))}"):
        make_plan(aggregation={"strategy": "scaffold"}, training=training)


def test_control_variates_are_for_one_learning_rate(make_plan: Callable[..., StudyPlan]) -> None:
    def plan(factor: float) -> StudyPlan:
        backbone = {"file": "a.safetensors", "sha256": "ab" * 32, "learning_rates": {"hidden": factor}}
        model = {"name": "mlp", "backbone": backbone}
        return make_plan(replaced={"model": model, "aggregation": {"strategy": "scaffold"}})

    with pytest.raises(PlanError, match=r"learning_rates\.hidden: found 0\.1"):
        plan(0.1)
    assert plan(0.0).carried == plan(1.0).carried == 2


def test_control_variates_go_with_neither_masks_nor_noise_nor_personal_models(
    make_plan: Callable[..., StudyPlan],
) -> None:
    with pytest.raises(PlanError, match="another scale"):
        make_plan(aggregation={"strategy": "scaffold"}, privacy=MASKED)
    with pytest.raises(PlanError, match="choose one of both"):
        make_plan(aggregation={"strategy": "scaffold"}, personalisation={"method": "ditto"})


def test_every_key_changes_what_sites_approve(make_plan: Callable[..., StudyPlan]) -> None:
    sections: list[dict[str, Any]] = [
        {"method": "fedbn"},
        {"method": "fedper"},
        {"method": "fedper", "local": ["dense2"]},
        {"method": "ditto"},
        {"method": "ditto", "pull": 0.2},
        {"method": "finetune"},
        {"method": "finetune", "epochs": 2},
        {"method": "finetune", "learning_rate": 0.2},
    ]
    assert {key for section in sections for key in section} == set(PersonalisationPlan.model_fields)
    assert len({make_plan(personalisation=section).digest() for section in sections}) == len(sections)
