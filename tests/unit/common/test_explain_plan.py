import tomllib
from collections.abc import Callable
from typing import Any

import pytest

from hansa_common.contract import ArrayContract, Column, ImageContract, TableContract
from hansa_common.errors import PlanError
from hansa_common.explain_plan import num_groups, views_of
from hansa_common.plan import StudyPlan, dump_plan, parse_plan, plan_from_json

Make = Callable[..., StudyPlan]
AB = ("a", "b")
IMAGES: dict[str, Any] = {"kind": "image", "channels": 3, "height": 20, "width": 40, "classes": list(AB)}


def explained(method: str = "integrated_gradients", **changes: Any) -> dict[str, Any]:
    return {"explain": {"method": method} | changes}


def test_a_plan_without_the_section_keeps_its_digest(make_plan: Make) -> None:
    plain = make_plan()
    assert "explain" not in dump_plan(plain)
    assert plain.digest() == "e688b8dcc57c2ba55107d1801618c4fcc781209bbb717761ad5740f4c8af5943"


def test_every_key_of_the_section_makes_another_plan(make_plan: Make) -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"method": "shapley"},
        {"split": "validation"},
        {"examples": 7},
        {"minimum_examples": 11},
        {"steps": 9},
        {"baseline": "mean"},
        {"kept_examples": 0},
        {"show_examples": True},
    ]
    plans = [make_plan(), *(make_plan(evaluation=explained(**change)) for change in changes)]
    assert len({plan.digest() for plan in plans}) == len(plans)
    for plan in plans:
        assert parse_plan(tomllib.loads(dump_plan(plan))) == plan
        assert plan_from_json(plan.model_dump_json()) == plan


@pytest.mark.parametrize(
    "privacy",
    [
        {
            "weights": "equal",
            "differential": {"kind": "example", "clipping_bound": 1.0, "noise_multiplier": 1.0, "sampling_rate": 0.1},
        },
        {"weights": "equal", "differential": {"kind": "site_server", "clipping_bound": 1.0, "noise_multiplier": 1.0}},
    ],
)
def test_with_differential_privacy_nothing_is_explained(make_plan: Make, privacy: dict[str, Any]) -> None:
    privacy["differential"] |= {"epsilon": 50.0, "delta": 1e-3}
    steps = {"training": {"steps": 5, "batch_size": 8, "optimizer": "sgd"}}
    make_plan(privacy=privacy, replaced=steps)
    with pytest.raises(PlanError, match=r"evaluation\.explain: .* no noise"):
        make_plan(privacy=privacy, replaced=steps, evaluation=explained())


@pytest.mark.parametrize(
    ("sections", "wanted", "fragment"),
    [
        ({}, explained("grad_cam"), "for images"),
        ({}, explained() | {"validation": 0.0}, ""),
        ({}, explained(split="validation") | {"validation": 0.0}, "no validation split"),
        ({}, explained(minimum_examples=1), "minimum_examples"),
        ({}, explained("saliency"), "method"),
        ({"replaced": {"data": IMAGES}, "model": {"name": "cnn"}}, explained("shapley"), "tables"),
        ({"data": {"shape": [8, 8]}}, explained("shapley"), "one axis"),
        ({"data": {"shape": [257]}}, explained("shapley"), "256"),
        ({"data": {"shape": [60_000]}}, explained(), "sums"),
    ],
)
def test_what_cannot_be_explained_is_refused_at_once(
    make_plan: Make, sections: dict[str, Any], wanted: dict[str, Any], fragment: str
) -> None:
    if not fragment:
        make_plan(evaluation=wanted, **sections)
        return
    with pytest.raises(PlanError, match=fragment):
        make_plan(evaluation=wanted, **sections)


def test_views_name_every_group() -> None:
    table = TableContract(
        kind="table",
        classes=AB,
        label="y",
        columns=(Column(name="age"), Column(name="sex", type="category", categories=("f", "m"))),
    )
    assert [view.labels for view in views_of(table)] == [("age", "sex")]
    image = views_of(ImageContract.model_validate(IMAGES | {"classes": AB}))
    assert (image[0].rows, len(image[0].labels), image[0].labels[16]) == (16, 256, "row 2, column 1")
    series = ArrayContract(kind="array", classes=AB, shape=(5, 2))
    assert [(view.name, len(view.labels), view.rows) for view in views_of(series)] == [
        ("features", 2, 0),
        ("steps", 5, 1),
    ]
    assert num_groups(series) == 7
