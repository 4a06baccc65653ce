from collections.abc import Callable
from typing import Any

import pytest

from hansa_common.errors import PlanError
from hansa_common.exact_fit import num_parameters
from hansa_common.plan import StudyPlan

NEWTON = {"strategy": "newton"}
MASKED = {"weights": "equal", "secure_aggregation": {"coordinate_range": 1.0, "cohort": "fixed"}}
SURVIVAL = {"kind": "array", "shape": [6], "target": {"kind": "survival", "time": "months", "event": "died"}}
BACKBONE = {"file": "w.safetensors", "sha256": "ab" * 32}


@pytest.mark.parametrize(
    ("replaced", "expected"),
    [
        ({}, 650),
        ({"data": {"kind": "array", "shape": [6], "classes": ["a", "b"]}}, 14),
        (
            {
                "data": {"kind": "array", "shape": [6], "classes": ["a", "b"]},
                "model": {"name": "logistic", "outputs": "sigmoid"},
            },
            7,
        ),
        ({"data": SURVIVAL, "model": {"name": "cox"}}, 6),
    ],
)
def test_a_plan_knows_how_many_parameters_are_fitted(
    make_plan: Callable[..., StudyPlan], replaced: dict[str, Any], expected: int
) -> None:
    plan = make_plan(aggregation=NEWTON, replaced=replaced)
    assert num_parameters(plan.model, plan.data) == expected
    assert plan.update_size(expected) == 2 + expected * (expected + 3)
    assert make_plan().update_size(expected) == expected


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"replaced": {"model": {"name": "mlp", "hidden": [4]}}}, "model.name: found 'mlp'"),
        ({"data": {"shape": [100]}}, "has 1,010 parameters"),
        ({"model": {"backbone": BACKBONE}}, "backbone"),
        ({"rounds": {"sites_per_round": 2}}, "rounds.sites_per_round"),
        ({"rounds": {"quorum": 0.9}}, "rounds.quorum: found 0.9"),
        ({"training": {"class_weights": "balanced"}}, "training.class_weights"),
        ({"training": {"augmentation": {"noise": 0.1}}}, "training.augmentation"),
        ({"transport": {"codec": "bf16"}}, "transport.codec: found 'bf16'"),
        ({"transport": {"down": "int8"}}, "transport.down: found 'int8'"),
        ({"personalisation": {"method": "ditto"}}, "does not train at the sites"),
        ({"privacy": MASKED}, "no one coordinate range"),
    ],
)
def test_what_would_be_another_fit_is_refused_with_its_key(
    make_plan: Callable[..., StudyPlan], sections: dict[str, Any], said: str
) -> None:
    with pytest.raises(PlanError, match=said):
        make_plan(aggregation=NEWTON, **sections)


def test_bytes_may_be_compressed(make_plan: Callable[..., StudyPlan]) -> None:
    assert make_plan(aggregation=NEWTON, transport={"compress": "zstd"}).transport.packs_updates
