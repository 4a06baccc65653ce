import copy
from typing import Any

import pytest

from hansa_common.errors import PlanError
from hansa_common.plan import dump_plan, parse_plan

_PLAN: dict[str, Any] = {
    "name": "ward",
    "purpose": "Find out.",
    "model": {"name": "logistic"},
    "data": {
        "kind": "table",
        "label": "sick",
        "classes": ["no", "yes"],
        "columns": [{"name": "age"}],
    },
    "training": {"steps": 10, "batch_size": 16},
    "rounds": {"count": 10},
    "federation": {"sites": ["Bergen", "Hamburg", "Visby"]},
}
_MASKS: dict[str, Any] = {"coordinate_range": 0.5, "cohort": "fixed"}
_NOISE: dict[str, Any] = {"clipping_bound": 1.0, "noise_multiplier": 2.0, "epsilon": 4.0, "delta": 1e-5}
_EXAMPLE = _NOISE | {"kind": "example", "sampling_rate": 0.05}

_GOOD: dict[str, dict[str, Any]] = {
    "masks": {"secure_aggregation": _MASKS, "maximum_examples": 1_000},
    "masks-equal": {"secure_aggregation": _MASKS | {"ring_bits": 16}, "weights": "equal", "clipping_bound": 2.0},
    "example": {"weights": "equal", "differential": _EXAMPLE},
    "example-masked": {
        "weights": "equal",
        "secure_aggregation": _MASKS,
        "differential": _EXAMPLE | {"unit": "patient", "metrics_noise": 30.0},
    },
    "server": {"weights": "equal", "differential": _NOISE | {"kind": "site_server"}},
    "distributed": {
        "weights": "equal",
        "secure_aggregation": _MASKS,
        "differential": _NOISE | {"kind": "site_distributed"},
    },
}


def _with(privacy: dict[str, Any], **sections: Any) -> dict[str, Any]:
    plan = copy.deepcopy(_PLAN) | {"privacy": privacy}
    for name, values in sections.items():
        plan[name] = plan[name] | values
    return plan


@pytest.mark.parametrize("name", _GOOD)
def test_each_kind_of_protection_is_read_and_written_back(name: str, tmp_path: Any) -> None:
    plan = parse_plan(_with(_GOOD[name]))
    path = tmp_path / "study.toml"
    path.write_text(dump_plan(plan))
    from hansa_common.plan import read_plan

    assert read_plan(path) == plan
    assert plan.digest() != parse_plan(_PLAN).digest()


def test_a_plan_without_protection_keeps_the_digest_it_had_before_there_was_any() -> None:
    assert parse_plan(_with({})).digest() == parse_plan(_PLAN).digest()
    assert parse_plan(_with({"clipping_bound": 1.0})).digest() != parse_plan(_PLAN).digest()


def test_the_bound_of_an_update_is_one_whichever_section_sets_it() -> None:
    assert parse_plan(_PLAN).privacy.update_bound is None
    assert parse_plan(_with(_GOOD["masks-equal"])).privacy.update_bound == 2.0
    assert parse_plan(_with(_GOOD["server"])).privacy.update_bound == 1.0
    assert parse_plan(_with(_GOOD["example"])).privacy.update_bound is None


_MOVING = {"adaptive": {"noise_multiplier": 1.0}}
_TWO = {"federation": {"sites": ["Bergen", "Visby"]}}
_WRONG: list[tuple[str, dict[str, Any], dict[str, Any], str]] = [
    ("no range", {"secure_aggregation": {"cohort": "fixed"}}, {}, "coordinate_range: this key is required"),
    ("no cohort", {"secure_aggregation": {"coordinate_range": 1.0}}, {}, "cohort: this key is required"),
    ("8 bits", {"secure_aggregation": _MASKS | {"ring_bits": 8}, "weights": "equal"}, {}, "found 8"),
    ("weights unbounded", {"secure_aggregation": _MASKS}, {}, "maximum_examples: this key is required"),
    ("weights and equal", {"weights": "equal", "maximum_examples": 5}, {}, "this key is for weights = 'examples'"),
    ("two sites", _GOOD["masks"], _TWO, "found 2 sites; allowed is 3 to 100"),
    ("drawn cohort", _GOOD["masks"], {"rounds": {"sites_per_round": 2}}, "a cohort that the server draws"),
    ("drawn, site", _GOOD["server"], {"rounds": {"sites_per_round": 2}}, "a cohort that the server draws"),
    ("data in the weight", {"differential": _EXAMPLE}, {}, "allowed is 'equal' with differential privacy"),
    ("two bounds", _GOOD["server"] | {"clipping_bound": 2.0}, {}, "is that of [privacy.differential]"),
    ("moving, a person", {"weights": "equal", "differential": _EXAMPLE | _MOVING}, {}, "is for kind = 'site_server'"),
    (
        "moving, masks",
        {"weights": "equal", "secure_aggregation": _MASKS, "differential": _NOISE | {"kind": "site_server"} | _MOVING},
        {},
        "each site tells for itself",
    ),
    (
        "moving, out of bounds",
        {
            "weights": "equal",
            "differential": _NOISE | {"kind": "site_server", "adaptive": {"noise_multiplier": 1.0, "most": 1e-3}},
        },
        {},
        "allowed is 1e-06 to 0.001",
    ),
    ("no rate", {"weights": "equal", "differential": _NOISE | {"kind": "example"}}, {}, "sampling_rate: this key is"),
    (
        "rate of sites",
        {"weights": "equal", "differential": _NOISE | {"kind": "site_server", "sampling_rate": 0.5}},
        {},
        "this key is for kind = 'example'",
    ),
    (
        "alone",
        {"weights": "equal", "differential": _NOISE | {"kind": "site_distributed"}},
        {},
        "add [privacy.secure_aggregation]",
    ),
    (
        "16 bits",
        {
            "weights": "equal",
            "secure_aggregation": _MASKS | {"ring_bits": 16},
            "differential": _NOISE | {"kind": "site_distributed"},
        },
        {},
        "leaves no room for noise",
    ),
    ("delta 1", {"weights": "equal", "differential": _EXAMPLE | {"delta": 1.0}}, {}, "allowed is less than 1"),
    ("no noise", {"weights": "equal", "differential": _EXAMPLE | {"noise_multiplier": 0.0}}, {}, "at least 0.05"),
    ("too little", {"weights": "equal", "differential": _EXAMPLE | {"noise_multiplier": 0.049}}, {}, "at least 0.05"),
    ("metrics", {"weights": "equal", "differential": _EXAMPLE | {"metrics_noise": 1e-3}}, {}, "at least 0.05"),
    ("epochs", _GOOD["example"], {"training": {"epochs": 1, "steps": None}}, "training.epochs: with privacy"),
    ("balanced", _GOOD["example"], {"training": {"class_weights": "balanced"}}, "training.class_weights: with"),
    ("mixup", _GOOD["example"], {"training": {"augmentation": {"mixup": 0.2}}}, "training.augmentation.mixup: with"),
    ("clip of a batch", _GOOD["example"], {"training": {"gradient_clip": 1.0}}, "training.gradient_clip: with"),
    ("standardised", _GOOD["example"], {"data": {"standardise": "site"}}, "data.standardise: with"),
]


@pytest.mark.parametrize(("privacy", "sections", "message"), [case[1:] for case in _WRONG], ids=[c[0] for c in _WRONG])
def test_what_would_not_protect_is_refused_with_the_reason(
    privacy: dict[str, Any], sections: dict[str, Any], message: str
) -> None:
    plan = _with(privacy, **sections)
    if plan["training"].get("steps", 1) is None:
        del plan["training"]["steps"]
    with pytest.raises(PlanError) as caught:
        parse_plan(plan)
    assert message in str(caught.value)
