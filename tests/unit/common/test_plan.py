import copy
import json
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hansa_common.contract import NumberTarget
from hansa_common.errors import PlanError, SettingsError
from hansa_common.models.cnn import CNNOptions
from hansa_common.plan import AggregationPlan, StudyPlan, dump_plan, parse_plan, read_plan
from hansa_common.simulation_plan import Partition

Plan = dict[str, Any]
_GONE = object()

_IMAGES: Plan = {
    "format": 1,
    "name": "ward-7",
    "purpose": "Find out.",
    "seed": 5,
    "model": {"name": "cnn", "filters": [8, 16, 16], "dense": 32},
    "data": {
        "kind": "image",
        "channels": 3,
        "height": 32,
        "width": 32,
        "classes": ["cat", "dog", "owl"],
        "minimum_examples": 20,
    },
    "training": {
        "optimizer": "sgd",
        "learning_rate": 0.1,
        "momentum": 0.9,
        "weight_decay": 1e-4,
        "batch_size": 16,
        "epochs": 2,
        "schedule": "cosine",
        "warmup_rounds": 1,
        "gradient_clip": 5.0,
        "class_weights": [1.0, 2.0, 3.0],
        "precision": "float32",
        "augmentation": {"flip": True, "crop": 4, "noise": 0.1, "mixup": 0.2},
    },
    "aggregation": {"strategy": "fedavgm", "momentum": 0.5},
    "rounds": {"count": 10, "sites_per_round": 3, "quorum": 0.5, "deadline_seconds": 60.0},
    "evaluation": {"validation": 0.2, "test": 0.1},
    "federation": {"sites": ["Bergen", "Visby"]},
    "simulation": {
        "data": {"adapter": "images", "path": "/data", "limit": 100},
        "sites": 3,
        "names": ["a", "b", "c"],
        "partition": "dirichlet:0.5",
        "holdout": 0.1,
    },
}
_TABLE: Plan = {
    **_IMAGES,
    "model": {"name": "logistic"},
    "data": {
        "kind": "table",
        "label": "sick",
        "classes": ["no", "yes"],
        "standardise": "site",
        "columns": [
            {"name": "age", "type": "int", "minimum": 0.0, "maximum": 120.0, "missing": "drop"},
            {"name": "ward", "type": "category", "categories": ["north", "south"]},
        ],
    },
    "training": {"epochs": 1, "class_weights": "balanced"},
}
_ARRAYS: Plan = {
    **_TABLE,
    "data": {"kind": "array", "shape": [4, 5], "classes": ["no", "yes"], "minimum": 0.0, "maximum": 1.0},
}


def _changed(plan: Plan, place: str, value: object) -> Plan:
    """Return the plan with one key set or taken away; ``place`` is written ``data.columns.0.type``."""
    changed = copy.deepcopy(plan)
    node: Any = changed
    *parents, last = [int(part) if part.isdigit() else part for part in place.split(".")]
    for part in parents:
        node = node[part]
    if value is _GONE:
        del node[last]
    else:
        node[last] = value
    return changed


# place, value, path of the error where it is not the place, and a part of its message
_WRONG_IMAGES: list[tuple[str, object, str, str]] = [
    (
        "nam",
        1,
        "",
        "unknown key. Did you mean 'name'? Allowed: aggregation, data, evaluation, federation, format, model, name",
    ),
    ("model.filterz", [1, 2, 3], "", "unknown key. Did you mean 'filters'? Allowed: dense, filters."),
    (
        "data.hight",
        32,
        "",
        "Did you mean 'height'? Allowed: channels, classes, height, kind, minimum_examples, target, ",
    ),
    ("data.columns", [], "", "unknown key. Allowed: channels, classes, height"),
    ("training.epoch", 1, "", "unknown key. Did you mean 'epochs'?"),
    ("training.augmentation.flipp", True, "", "Did you mean 'flip'? Allowed: crop, flip, mixup, noise."),
    ("rounds.counts", 3, "", "Did you mean 'count'? Allowed: count, deadline_seconds, quorum, sites_per_round."),
    (
        "evaluation.tst",
        0.1,
        "",
        "Did you mean 'test'? Allowed: column, cost, ensemble, explain, group, groups, minimum_group, test, ",
    ),
    ("simulation.site", 3, "", "unknown key. Did you mean 'sites'?"),
    ("format", 2, "", "found 2; allowed is 1."),
    ("format", "1", "", "found '1'; allowed is 1."),
    ("name", _GONE, "", "required and missing"),
    ("name", 7, "", "found 7; allowed is text in quotes."),
    ("name", "My Study", "", "found 'My Study'; allowed is 1 to 63 lower-case letters, digits and hyphens"),
    ("name", "-a", "", "the first no hyphen"),
    ("name", "../etc", "", "lower-case letters"),
    ("name", "a\n", "", r"found 'a\n'"),
    ("name", "a" * 64, "", "1 to 63"),
    ("purpose", "", "", "found ''; allowed is text of length 1 or more."),
    ("purpose", _GONE, "", "required and missing"),
    ("seed", -1, "", "found -1; allowed is at least 0."),
    ("seed", 2**53, "", "allowed is less than 9007199254740992."),
    ("seed", 1.5, "", "found 1.5; allowed is an integer."),
    ("seed", True, "", "found true; allowed is an integer."),
    ("model", _GONE, "", "required and missing"),
    ("model", "cnn", "", "found 'cnn'; allowed is a table of keys."),
    ("model.name", _GONE, "", "required and missing"),
    ("model.name", "cn", "", "There is no model named 'cn'. Did you mean 'cnn'? Allowed: cnn, cnn1d, cox,"),
    ("model.filters", [8, 16], "", "found [8, 16]; item 3 is missing."),
    ("model.filters", [8, 16, 0], "model.filters[2]", "found 0; allowed is at least 1."),
    ("model.dense", 5_000, "", "found 5000; allowed is at most 4096."),
    (
        "model.dense",
        {"a": 1},
        "",
        "found a table of keys; allowed is true or false, an integer, a number, text in quotes",
    ),
    ("data", _GONE, "", "required and missing"),
    ("data", 3, "", "found 3; allowed is a table of keys."),
    ("data.kind", _GONE, "", "required and missing"),
    ("data.kind", "imag", "", "found 'imag'; allowed is one of 'image', 'array', 'table'."),
    ("data.height", "32", "", "found '32'; allowed is an integer."),
    ("data.height", 0, "", "found 0; allowed is at least 1."),
    ("data.height", 17, "model.name", "images of 17x32 are too small for three 3x3 convolutions; the least is 18x18."),
    ("data.width", 65_537, "", "allowed is at most 65536."),
    ("data.channels", 65, "", "allowed is at most 64."),
    ("data.classes", ["cat"], "", "found 1; allowed is at least 2, or a 'target' instead."),
    ("data.classes", ["cat", ""], "data.classes[1]", "found ''; allowed is text of length 1 or more."),
    ("data.classes", ["cat", "cat", "owl"], "", "a class is named twice"),
    ("data.classes", "cat", "", "found 'cat'; allowed is a list."),
    ("data.classes", ["cat", "dog"], "training.class_weights", "3 weights for 2 classes; allowed is one for each."),
    ("data.minimum_examples", 0, "", "allowed is at least 1."),
    ("training", _GONE, "", "required and missing"),
    ("training.epochs", _GONE, "training", "found neither of 'epochs' and 'steps'; allowed is exactly one of them."),
    ("training.steps", 5, "training", "found both of 'epochs' and 'steps'; allowed is exactly one of them."),
    ("training.epochs", 0, "", "allowed is at least 1."),
    ("training.optimizer", "adamw", "", "found 'adamw'; allowed is 'adam' or 'sgd'."),
    ("training.optimizer", "adam", "training.momentum", "found 0.9; allowed is 0 with optimizer = 'adam'."),
    ("training.learning_rate", 0.0, "", "allowed is more than 0"),
    ("training.learning_rate", float("inf"), "", "found inf; allowed is a finite number."),
    ("training.learning_rate", float("nan"), "", "found nan; allowed is a finite number."),
    ("training.learning_rate", "1e-3", "", "found '1e-3'; allowed is a number."),
    ("training.momentum", 1.0, "", "allowed is less than 1"),
    ("training.weight_decay", -0.1, "", "allowed is at least 0"),
    ("training.batch_size", 0, "", "allowed is at least 1."),
    ("training.schedule", "step", "", "allowed is 'constant', 'linear' or 'cosine'."),
    ("training.warmup_rounds", 10, "", "found 10; allowed is fewer than rounds.count, which is 10."),
    ("training.gradient_clip", -1.0, "", "allowed is more than 0"),
    ("training.class_weights", "equal", "", "found 'equal'; allowed is 'none' or 'balanced' or a list."),
    ("training.class_weights", [1.0, 0.0, 1.0], "training.class_weights[1]", "found 0.0; allowed is more than 0"),
    ("training.precision", "float16", "", "allowed is 'float32' or 'bfloat16'."),
    ("training.augmentation", True, "", "found true; allowed is a table of keys."),
    ("training.augmentation.flip", 1, "", "found 1; allowed is true or false."),
    ("training.augmentation.crop", 65, "", "allowed is at most 64."),
    ("aggregation.strategy", "", "", "allowed is text of length 1 or more."),
    ("aggregation.mu", float("nan"), "", "found nan"),
    ("rounds", _GONE, "", "required and missing"),
    ("rounds.count", _GONE, "", "required and missing"),
    ("rounds.count", 0, "", "allowed is at least 1."),
    ("rounds.quorum", 0.0, "", "allowed is more than 0"),
    ("rounds.quorum", 1.5, "", "allowed is at most 1"),
    ("rounds.sites_per_round", 4, "", "found 4; allowed is at most 3, the sites there are."),
    ("rounds.deadline_seconds", 0.0, "", "allowed is more than 0"),
    ("evaluation.test", 0.0, "", "allowed is more than 0"),
    ("evaluation.validation", 0.85, "evaluation", "found validation + test = 0.95; allowed is at most 0.9."),
    ("simulation.data", _GONE, "", "required and missing"),
    ("simulation.data.adapter", _GONE, "", "required and missing"),
    ("simulation.data.path", 3, "", "found 3; allowed is text in quotes."),
    ("simulation.sites", 0, "", "allowed is at least 1."),
    ("simulation.sites", 4, "simulation.names", "found 3 names; allowed is one for each of the 4 sites."),
    ("simulation.names", ["a", "b", "b"], "", "named twice: b; each site needs a name of its own."),
    (
        "simulation.names",
        ["a", "b", "c/d"],
        "simulation.names[2]",
        "found 'c/d'; allowed is 1 to 64 characters, without",
    ),
    ("simulation.partition", "dirichlet", "", "found 'dirichlet'; allowed is iid, dirichlet:ALPHA, shards:K"),
    ("simulation.partition", "shards:4", "", "'shards:4' asks for more labels than the 3 classes."),
    ("simulation.partition", "column:ward", "simulation.names", "a column partition names the sites by the column's"),
    ("simulation.holdout", 0.6, "", "allowed is at most 0.5."),
]
_WRONG_TABLE: list[tuple[str, object, str, str]] = [
    ("model.name", "cnn", "", "'cnn' does not learn from data.kind = 'table'; allowed is image."),
    ("model.dense", 3, "", "unknown key. Allowed: initial, outputs."),
    (
        "data.height",
        3,
        "",
        "unknown key. Allowed: classes, columns, kind, label, minimum_examples, standardise, target.",
    ),
    ("data.standardize", "site", "", "Did you mean 'standardise'?"),
    ("data.label", _GONE, "", "required and missing"),
    ("data.label", "age", "", "'age' is a feature column too; a label cannot predict itself."),
    ("data.columns", [], "", "found []; allowed is a list of length 1 or more."),
    ("data.columns.0.typ", "int", "data.columns[0].typ", "Did you mean 'type'? Allowed: categories, maximum, minimum"),
    ("data.columns.0.type", "text", "data.columns[0].type", "allowed is 'float', 'int' or 'category'."),
    ("data.columns.0.name", _GONE, "data.columns[0].name", "required and missing"),
    ("data.columns.0.name", "ward", "data.columns", "named twice: ward."),
    ("data.columns.0.minimum", "0", "data.columns[0].minimum", "found '0'; allowed is a number."),
    ("data.columns.0.minimum", 130.0, "data.columns[0]", "column 'age': minimum 130 is not below maximum 120."),
    ("data.columns.0.categories", ["a"], "data.columns[0]", "column 'age': 'categories' goes with type 'category'"),
    ("data.columns.1.categories", _GONE, "data.columns[1]", "column 'ward': 'categories' goes with type 'category'"),
    ("data.columns.1.categories", ["a", "a"], "data.columns[1]", "column 'ward': a category is named twice."),
    ("data.columns.1.minimum", 1.0, "data.columns[1]", "column 'ward': a category has no minimum or maximum."),
    ("training.augmentation", {"flip": True}, "", "flip and crop are for images; data.kind is 'table'."),
]
_WRONG_ARRAYS: list[tuple[str, object, str, str]] = [
    ("data.shape", [], "", "allowed is a list of length 1 or more."),
    ("data.shape", [0], "data.shape[0]", "found 0; allowed is at least 1."),
    ("data.shape", [1, 1, 1, 1, 1], "", "allowed is a list of length 4 or less."),
    ("data.minimum", 1.0, "data", "minimum 1 is not below maximum 1."),
    ("model", {"name": "cox"}, "model.name", "'cox' does not learn classes, which the data contract asks for; it lear"),
    ("model", {"name": "vae"}, "model.name", "'vae' does not learn classes"),
    ("model", {"name": "gru", "vocabulary": 3}, "model.vocabulary", "token ids are an array of shape [steps]"),
    (
        "data.shap",
        [1],
        "",
        "Did you mean 'shape'? Allowed: classes, kind, maximum, minimum, minimum_examples, shape, ",
    ),
]
_WRONG = [
    *((_IMAGES, *case) for case in _WRONG_IMAGES),
    *((_TABLE, *case) for case in _WRONG_TABLE),
    *((_ARRAYS, *case) for case in _WRONG_ARRAYS),
]


@pytest.mark.parametrize("augmentation", [{"noise": 0.1}, {"mixup": 0.2}])
def test_token_ids_are_not_blended_and_get_no_noise(augmentation: Plan) -> None:
    data = {"kind": "array", "shape": [5], "classes": ["no", "yes"], "minimum": 0.0, "maximum": 6.0}
    plan = {**_ARRAYS, "model": {"name": "gru", "vocabulary": 7}, "data": data}
    parse_plan(plan)
    with pytest.raises(PlanError, match="noise and mixup are for numbers"):
        parse_plan(_changed(plan, "training.augmentation", augmentation))


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ({"name": "gru"}, "computes a recurrent layer as a whole"),
        ({"name": "lstm"}, "computes a recurrent layer as a whole"),
    ],
)
def test_a_model_without_a_gradient_of_one_example_is_not_for_private_training(model: Plan, reason: str) -> None:
    differential = {"kind": "example", "clipping_bound": 1.0, "noise_multiplier": 1.0, "epsilon": 8.0, "delta": 1e-5}
    plan = {
        **_ARRAYS,
        "training": {"steps": 3},
        "privacy": {"weights": "equal", "differential": {**differential, "sampling_rate": 0.1}},
        "aggregation": {},
    }
    parse_plan({**plan, "model": {"name": "cnn1d", "filters": [4]}})
    with pytest.raises(PlanError, match=f"'example' is not for model.name = '{model['name']}'.*{reason}"):
        parse_plan({**plan, "model": model})


_BACKBONE: Plan = {"file": "w.safetensors", "sha256": "0a" * 32, "frozen": True, "fresh": ["linear"]}
_ADAPTED: Plan = {**_TABLE, "model": {"name": "logistic", "backbone": _BACKBONE, "lora": {"rank": 4}}}


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("model.backbone", _GONE),
        ("model.backbone.file", "v.safetensors"),
        ("model.backbone.sha256", "0b" * 32),
        ("model.backbone.frozen", False),
        ("model.backbone.fresh", _GONE),
        ("model.lora", _GONE),
        ("model.lora.rank", 5),
        ("model.lora.alpha", 5),
        ("model.lora.targets", ["linear"]),
        ("model.backbone.learning_rates", {"linear": 0.5}),
    ],
)
def test_what_a_model_starts_from_is_part_of_what_sites_approve(place: str, value: object) -> None:
    plan = copy.deepcopy(_ADAPTED)
    if place in ("model.backbone", "model.backbone.frozen", "model.backbone.learning_rates"):
        del plan["model"]["lora"]
    if place == "model.backbone.learning_rates":
        plan["model"]["backbone"]["frozen"] = False
    assert parse_plan(_changed(plan, place, value)).digest() != parse_plan(plan).digest()


@pytest.mark.parametrize(
    ("place", "value", "path", "message"),
    [
        ("model.backbone", _GONE, "model", "adapters go on a frozen backbone"),
        ("model.backbone.frozen", False, "model", "adapters go on a frozen backbone"),
        ("model.backbone.learning_rates", {"a": 0.1}, "model.backbone", "nothing of the file is trained"),
        ("model.backbone.file", "../w.pt", "", "found '../w.pt'"),
        ("model.backbone.file", "/etc/passwd", "", "found '/etc/passwd'"),
        ("model.backbone.file", ".w.pt", "", "found '.w.pt'"),
        ("model.backbone.sha256", "0A" * 32, "", "found '0A"),
        ("model.backbone.path", "w.pt", "", "unknown key."),
        ("model.lora.rank", 0, "", "allowed is at least 1."),
        ("model.lora.dropout", 0.1, "", "unknown key. Allowed: alpha, rank, targets."),
    ],
)
def test_a_wrong_backbone_is_refused(place: str, value: object, path: str, message: str) -> None:
    with pytest.raises(PlanError) as caught:
        parse_plan(_changed(_ADAPTED, place, value))
    assert caught.value.path.startswith(path or place)
    assert message in str(caught.value)


def test_a_backbone_survives_toml_and_its_folder_is_nobodys_business(tmp_path: Path) -> None:
    plan = parse_plan(_changed(_ADAPTED, "simulation.data.weights", "/weights"))
    (tmp_path / "plan.toml").write_text(dump_plan(plan))
    assert read_plan(tmp_path / "plan.toml") == plan
    assert plan.digest() == parse_plan(_ADAPTED).digest()
    assert plan.simulation_digest() == parse_plan(_ADAPTED).simulation_digest()


@pytest.mark.parametrize("plan", [_IMAGES, _TABLE, _ARRAYS], ids=["image", "table", "array"])
def test_a_good_plan_is_read(plan: Plan) -> None:
    assert parse_plan(plan).data.kind == plan["data"]["kind"]


def test_options_lie_beside_the_name() -> None:
    plan = parse_plan(_IMAGES)
    assert plan.model_options() == CNNOptions(filters=(8, 16, 16), dense=32)
    assert plan.aggregation.options == {"momentum": 0.5}
    assert plan.simulation is not None
    assert plan.simulation.data.options == {"limit": 100}


@pytest.mark.parametrize(
    ("plan", "place", "value", "path", "message"),
    _WRONG,
    ids=[f"{place}={'(none)' if value is _GONE else str(value)[:20]!r}" for _, place, value, _, _ in _WRONG],
)
def test_a_wrong_plan_is_refused_with_path_and_reason(
    plan: Plan, place: str, value: object, path: str, message: str
) -> None:
    path = path or place
    with pytest.raises(PlanError) as caught:
        parse_plan(_changed(plan, place, value), origin="study.toml")
    assert caught.value.path == path
    assert str(caught.value).startswith(f"study.toml: {path}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_strategy_is_refused_when_the_plan_is_read(make_plan: Callable[..., StudyPlan]) -> None:
    with pytest.raises(PlanError, match=r"^aggregation\.strategy: .*Did you mean 'fedavg'\? Allowed: ") as caught:
        make_plan(aggregation={"strategy": "fedavgg"})
    assert caught.value.path == "aggregation.strategy"


def test_a_rule_derived_from_sgd_is_refused_with_another_optimiser(make_plan: Callable[..., StudyPlan]) -> None:
    make_plan(aggregation={"strategy": "fednova"}, training={"momentum": 0.9})
    with pytest.raises(PlanError, match=r"^training\.optimizer: found 'adam'; allowed is 'sgd' with .*'fednova'"):
        make_plan(aggregation={"strategy": "fednova"}, training={"optimizer": "adam"})


@pytest.mark.parametrize(
    ("training", "path", "message"),
    [
        ({"momentum": 0.5}, "training.momentum", "'fednova' weighs proximal steps of plain SGD"),
        ({"schedule": "cosine"}, "training.schedule", "allowed is 'constant'"),
        ({"warmup_rounds": 1}, "training.warmup_rounds", "allowed is 0"),
        ({"gradient_clip": 1.0}, "training.gradient_clip", "no such key"),
        ({"learning_rate": 10.0}, "aggregation.mu", "by 1 of its way"),
    ],
)
def test_a_proximal_term_of_fednova_is_of_plain_sgd(
    make_plan: Callable[..., StudyPlan], training: dict[str, Any], path: str, message: str
) -> None:
    make_plan(aggregation={"strategy": "fednova", "mu": 0.0}, training=training)
    make_plan(aggregation={"strategy": "fedprox", "mu": 0.1}, training=training)
    make_plan(aggregation={"strategy": "fednova", "mu": 0.1})
    with pytest.raises(PlanError, match=message) as caught:
        make_plan(aggregation={"strategy": "fednova", "mu": 0.1}, training=training)
    assert caught.value.path == path


@pytest.mark.parametrize(
    ("sections", "path", "message"),
    [
        ({}, "aggregation.root", "Did you mean 'Bergen'"),
        ({"federation": {"sites": ["Visby", "Riga"]}}, "aggregation.root", "Allowed: Riga, Visby"),
        (
            {"rounds": {"sites_per_round": 2}, "aggregation": {"root": "Bergen"}},
            "rounds.sites_per_round",
            "every round",
        ),
        ({"aggregation": {"roots": "Bergen"}}, "aggregation.roots", "unknown key"),
    ],
)
def test_a_trusted_site_is_one_of_the_plan_s_and_in_every_round(
    make_plan: Callable[..., StudyPlan], sections: dict[str, Any], path: str, message: str
) -> None:
    def plan_of(aggregation: dict[str, Any], **others: Any) -> StudyPlan:
        simulation = {"data": {"adapter": "digits"}, "names": ["Bergen", "Visby", "Riga", "Lund"], "sites": 4}
        return make_plan(aggregation={"strategy": "fltrust"} | aggregation, simulation=simulation, **others)

    plan_of({"root": "Bergen"}, federation={"sites": ["Bergen", "Riga"]})
    others = {key: value for key, value in sections.items() if key != "aggregation"}
    with pytest.raises(PlanError, match=message) as caught:
        plan_of({"root": "Bergn"} | sections.get("aggregation", {}), **others)
    assert caught.value.path == path


def test_all_wrong_keys_are_named_at_once() -> None:
    plan = _changed(_changed(_IMAGES, "model.dens", 3), "model.filters", [0, 1, 2])
    with pytest.raises(PlanError) as caught:
        parse_plan(plan)
    assert {line.split(":")[0] for line in str(caught.value).split("\n")} == {"model.filters[0]", "model.dens"}
    plan = _changed(_changed(_IMAGES, "rounds.count", 0), "seed", -1)
    with pytest.raises(PlanError) as caught:
        parse_plan(plan)
    assert [line.split(":")[0] for line in str(caught.value).split("\n")] == ["seed", "rounds.count"]


@pytest.mark.parametrize("warmup_rounds", [0, 1])
def test_a_study_of_one_round_may_warm_up(warmup_rounds: int) -> None:
    plan = _changed(_changed(_IMAGES, "rounds.count", 1), "training.warmup_rounds", warmup_rounds)
    assert parse_plan(plan).rounds.count == 1


def _leaves(node: object, place: str = "") -> list[str]:
    if isinstance(node, dict):
        return [leaf for key, inner in node.items() for leaf in _leaves(inner, f"{place}.{key}" if place else key)]
    if isinstance(node, list) and node and isinstance(node[0], dict):
        return [leaf for index, inner in enumerate(node) for leaf in _leaves(inner, f"{place}.{index}")]
    return [place]


_OTHER: dict[str, object] = {
    "federation.sites": ["Visby", "Bergen"],
    "name": "ward-8",
    "purpose": "Find out more.",
    "model.filters": [8, 16, 17],
    "data.classes": ["cat", "dog", "cow"],
    "training.optimizer": "sgd",
    "training.schedule": "linear",
    "training.class_weights": [1.0, 2.0, 4.0],
    "training.precision": "bfloat16",
    "training.augmentation.flip": False,
    "aggregation.strategy": "fedavg",
    "rounds.sites_per_round": 2,
    "evaluation.validation": 0.25,
    "data.label": "ill",
    "data.standardise": "none",
    "data.columns.0.name": "years",
    "data.columns.0.type": "float",
    "data.columns.0.missing": "refuse",
    "data.columns.1.name": "room",
    "data.columns.1.categories": ["south", "north"],
    "data.shape": [5, 4],
}
_FIXED = {"format", "model.name", "data.kind", "training.optimizer", "data.columns.1.type"}  # another breaks the rest


def _other_value(plan: Plan, place: str) -> object:
    if place in _OTHER and not (place == "data.classes" and plan["data"]["kind"] != "image"):
        return _OTHER[place]
    value: Any = plan
    for part in place.split("."):
        value = value[int(part) if part.isdigit() else part]
    if place == "data.classes":
        return ["yes", "no"]
    if place == "training.class_weights":
        return "none"
    return value + 1 if isinstance(value, int) else value * 0.5 if value else 0.5


_DIGESTED = [
    (plan, place)
    for plan in (_IMAGES, _TABLE, _ARRAYS)
    for place in _leaves({key: value for key, value in plan.items() if key != "simulation"})
    if place not in _FIXED and (plan is _IMAGES or place.startswith("data"))
]


@pytest.mark.parametrize(("plan", "place"), _DIGESTED, ids=[f"{p['data']['kind']}-{place}" for p, place in _DIGESTED])
def test_any_change_of_what_sites_approve_changes_the_digest(plan: Plan, place: str) -> None:
    changed = parse_plan(_changed(plan, place, _other_value(plan, place)))
    assert changed != parse_plan(plan)
    assert changed.digest() != parse_plan(plan).digest()


_DECISIONS: dict[str, Any] = {
    "cost": {"false_negative": 5.0, "false_positive": 1.0},
    "groups": {"sex": ["f", "m"]},
    "minimum_group": 50,
}


def test_every_key_of_the_plan_is_among_the_changed_ones() -> None:
    tried = {place.split(".")[0] for _, place in _DIGESTED} | {
        "format",
        "simulation",
        "privacy",
        "personalisation",
        "preprocessing",
        "transport",
    }
    assert tried == set(StudyPlan.model_fields)
    for section in ("training", "rounds", "evaluation"):
        fields = set(StudyPlan.model_fields[section].annotation.model_fields)  # type: ignore[union-attr]
        assert fields <= {place.split(".")[1] for _, place in _DIGESTED if place.startswith(section)} | {
            "steps",
            "optimizer",
            *_DECISIONS,
            "explain",  # test_explain_plan.py
            "ensemble",  # unit/server/test_ensemble.py
            "column",
            "group",  # test_a_split_by_column_is_another_plan
        }


def test_steps_instead_of_epochs_and_adam_instead_of_sgd_change_the_digest() -> None:
    digests = {
        parse_plan(_TABLE | {"training": training}).digest()
        for training in ({"epochs": 1}, {"steps": 1}, {"steps": 2}, {"epochs": 1, "optimizer": "sgd"})
    }
    assert len(digests) == 4


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("sites", 30),
        ("names", ["x", "y", "z"]),
        ("partition", "iid"),
        ("holdout", 0.2),
        ("device", "cpu"),
        ("data", {"adapter": "other"}),
    ],
)
def test_the_simulation_is_outside_the_digest(place: str, value: object) -> None:
    plan = _changed(_IMAGES, "simulation.names", _GONE)
    assert parse_plan(_changed(plan, f"simulation.{place}", value)).digest() == parse_plan(_IMAGES).digest()
    assert parse_plan(_changed(_IMAGES, "simulation", _GONE)).digest() == parse_plan(_IMAGES).digest()


def test_the_digest_does_not_move_between_versions() -> None:
    plan = parse_plan({key: value for key, value in _ARRAYS.items() if key != "simulation"})
    plan = plan.model_copy(update={"aggregation": AggregationPlan(strategy="fedprox", options={"mu": 0.01})})
    # Another digest means that sites must approve every study anew: say so in the changelog.
    assert plan.digest() == "8aeb60080ed4174fb86d9950d196534d4e5b311c3c5cb5b6fd6b5d9ab86f98db"


@pytest.mark.slow
@given(order=st.randoms(use_true_random=False))
def test_order_of_keys_does_not_matter(order: Any) -> None:
    def shuffled(node: Any) -> Any:
        if not isinstance(node, dict):
            return node
        keys = list(node)
        order.shuffle(keys)
        return {key: shuffled(node[key]) for key in keys}

    assert parse_plan(shuffled(_IMAGES)).digest() == parse_plan(_IMAGES).digest()


def test_a_default_written_out_is_the_same_plan() -> None:
    short = _changed(_TABLE, "training", {"epochs": 1})
    long = _changed(_TABLE, "training", {"epochs": 1, "optimizer": "adam", "learning_rate": 0.001, "momentum": 0})
    assert parse_plan(short).digest() == parse_plan(long).digest()


def test_a_plan_survives_json_and_toml(tmp_path: Path) -> None:
    for values in (_IMAGES, _TABLE, _ARRAYS):
        plan = parse_plan(values)
        assert parse_plan(json.loads(plan.model_dump_json())) == plan
        file = tmp_path / "study.toml"
        file.write_text(dump_plan(plan), encoding="utf-8")
        assert read_plan(file) == plan


def test_a_file_is_named_in_its_errors(tmp_path: Path) -> None:
    file = tmp_path / "study.toml"
    file.write_text("name = 'a'\n[rounds]\ncount = 0\n", encoding="utf-8")
    with pytest.raises(PlanError) as caught:
        read_plan(file)
    assert str(caught.value).startswith(f"{file}: ")
    file.write_text("name = \n", encoding="utf-8")
    with pytest.raises(SettingsError, match="line 1"):
        read_plan(file)


def test_what_sites_approve_holds_no_simulation() -> None:
    plan = parse_plan(_IMAGES)
    assert plan.approved().simulation is None
    assert plan.approved().digest() == plan.digest()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("iid", Partition("iid")),
        ("dirichlet:0.5", Partition("dirichlet", alpha=0.5)),
        ("quantity:2", Partition("quantity", alpha=2.0)),
        ("shards:2", Partition("shards", labels_per_site=2)),
        ("column:ward: north", Partition("column", column="ward: north")),
    ],
)
def test_partitions_are_parsed(text: str, expected: Partition) -> None:
    assert Partition.parse(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        *("", "iid:1", "dirichlet:", "dirichlet:0", "dirichlet:-1", "dirichlet:nan", "dirichlet:inf", "dirichlet:x"),
        *("quantity:1e7", "shards:", "shards:0", "shards:1.5", "column:", "IID", "random"),
    ],
)
def test_other_partitions_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=f"found '{text}'; allowed is iid, dirichlet:ALPHA"):
        Partition.parse(text)


def test_a_coordinator_reads_plans_without_torch() -> None:
    program = (
        "import sys, hansa_common.plan, hansa_common.models, hansa_common.metrics\n"
        "print(sorted({'torch', 'flwr', 'sklearn', 'pandas'} & set(sys.modules)))"
    )
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert finished.stdout.strip() == "[]"


_NUMBER = _TABLE | {
    "model": {"name": "linear"},
    "data": {"kind": "table", "label": "y", "columns": [{"name": "x"}], "target": {"kind": "number"}},
    "training": {"epochs": 1},
}


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"training": {"epochs": 1, "class_weights": "balanced"}}, "training.class_weights is for classes"),
        ({"training": {"epochs": 1, "augmentation": {"mixup": 0.2}}}, "training.augmentation.mixup is for classes"),
        (
            {
                "training": {"steps": 1},
                "privacy": {
                    "weights": "equal",
                    "differential": {
                        "kind": "example",
                        "clipping_bound": 1.0,
                        "noise_multiplier": 1.0,
                        "epsilon": 8.0,
                        "delta": 1e-5,
                        "sampling_rate": 0.1,
                    },
                },
            },
            "privacy.differential.kind = 'example' is for classes",
        ),
    ],
)
def test_what_is_for_classes_is_refused_where_a_number_is_learned(changes: dict[str, Any], found: str) -> None:
    plan = {key: value for key, value in _NUMBER.items() if key not in ("privacy", "simulation")}
    assert parse_plan(plan).data.target is not None
    with pytest.raises(PlanError, match=found):
        parse_plan(plan | changes)


def test_a_target_is_in_the_digest_and_in_the_file() -> None:
    plan = parse_plan({key: value for key, value in _NUMBER.items() if key != "simulation"})
    scaled = plan.model_copy(
        update={"data": plan.data.model_copy(update={"target": NumberTarget(kind="number", scale=2.0)})}
    )
    assert plan.digest() != scaled.digest()
    assert parse_plan(tomllib.loads(dump_plan(scaled))) == scaled


_BINARY: dict[str, Any] = {key: value for key, value in _NUMBER.items() if key not in ("simulation", "privacy")} | {
    "model": {"name": "logistic"},
    "data": {"kind": "table", "label": "y", "columns": [{"name": "x"}], "classes": ["no", "yes"]},
}


def test_decisions_are_in_the_digest_once_they_are_asked_for() -> None:
    sections = [{"cost": _DECISIONS["cost"]}, {"groups": _DECISIONS["groups"]}, _DECISIONS]
    sections += [_DECISIONS | {"minimum_group": 51}, {}]
    plans = [parse_plan(_BINARY | {"evaluation": section}) for section in sections]
    assert len({plan.digest() for plan in plans}) == len(sections)
    assert [plan.evaluation.decision_rows for plan in plans] == [1, 3, 3, 3, 0]
    assert plans[-1].digest() == parse_plan(_BINARY | {"evaluation": {"minimum_group": 9}}).digest()


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"data": _BINARY["data"] | {"classes": ["a", "b", "c"]}}, "two classes are needed"),
        ({"data": _NUMBER["data"], "model": {"name": "linear"}}, "two classes are needed"),
        (
            {
                "privacy": {
                    "weights": "equal",
                    "differential": {
                        "kind": "site_server",
                        "clipping_bound": 1.0,
                        "noise_multiplier": 1.0,
                        "epsilon": 8.0,
                        "delta": 1e-5,
                    },
                }
            },
            "differential privacy lets no such counts out",
        ),
    ],
)
def test_decisions_are_about_two_classes_without_noise(changes: dict[str, Any], found: str) -> None:
    with pytest.raises(PlanError, match=found):
        parse_plan(_BINARY | {"evaluation": _DECISIONS} | changes)


# of small_study() before [evaluation] had 'column' and 'group'
DIGEST_BEFORE_COLUMNS = "e688b8dcc57c2ba55107d1801618c4fcc781209bbb717761ad5740f4c8af5943"


def test_plans_that_are_older_than_splits_by_column_keep_their_digest(small_plan: StudyPlan) -> None:
    assert small_plan.digest() == DIGEST_BEFORE_COLUMNS


@pytest.mark.parametrize("key", ["column", "group"])
def test_a_split_by_column_is_another_plan(
    make_plan: Callable[..., StudyPlan], small_plan: StudyPlan, key: str
) -> None:
    assert make_plan(evaluation={key: "fold"}).digest() != small_plan.digest()


def test_a_split_by_column_and_by_group_exclude_each_other(make_plan: Callable[..., StudyPlan]) -> None:
    with pytest.raises(PlanError, match="leave one of 'column' and 'group' out"):
        make_plan(evaluation={"column": "fold", "group": "patient"})


@pytest.mark.parametrize("key", ["column", "group"])
def test_example_level_privacy_splits_by_persons_only(make_plan: Callable[..., StudyPlan], key: str) -> None:
    noised = {
        "kind": "example",
        "clipping_bound": 1.0,
        "noise_multiplier": 1.0,
        "epsilon": 3.0,
        "delta": 1e-5,
        "sampling_rate": 0.1,
    }
    with pytest.raises(PlanError, match=rf"evaluation\.{key}: with privacy"):
        make_plan(
            training={"steps": 2, "epochs": None},
            privacy={"weights": "equal", "differential": noised},
            evaluation={key: "fold"},
        )
