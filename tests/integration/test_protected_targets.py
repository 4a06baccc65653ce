"""What a study learns, decides, keeps and explains, under masks and noise: equal to the open study, or refused.

Masks round each coordinate of an update to a step of ``coordinate_range / 2^30``; after two rounds the models differ by
that and by what float32 makes of it. Counts are whole numbers, so what is computed from counts alone is equal.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from hansa_common.errors import PlanError
from hansa_common.plan import StudyPlan, parse_plan
from hansa_server.engines.engine import Engine, Machine
from hansa_server.progress import Quiet
from hansa_server.results import Results
from hansa_server.simulation import simulate
from hansa_server.store import RunFolder

STEP = 1e-6
MASKS: dict[str, Any] = {
    "maximum_examples": 100,
    "secure_aggregation": {"coordinate_range": 4.0, "cohort": "changing"},
}
SITE_NOISE: dict[str, Any] = {
    "kind": "site_distributed",
    "clipping_bound": 1.0,
    "noise_multiplier": 0.05,  # the least: no protection, but a model that can be compared
    "epsilon": 1e8,
    "delta": 0.1,
}
PERSON_NOISE: dict[str, Any] = {
    "kind": "example",
    "clipping_bound": 1.0,
    "noise_multiplier": 1.0,
    "epsilon": 50.0,
    "delta": 1e-3,
    "sampling_rate": 0.2,
}
TARGETS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "number": ({"name": "linear"}, {"target": {"kind": "number", "unit": "cycles"}}),
    "survival": ({"name": "cox"}, {"target": {"kind": "survival", "time": "t", "event": "e"}}),
    "anomalies": (
        {"name": "vae", "hidden": [8], "latent": 2},
        {"target": {"kind": "reconstruction", "anomaly": "bad"}},
    ),
    "classes": ({"name": "logistic"}, {"classes": ["low", "high"]}),
}
Study = Callable[..., StudyPlan]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 examples of three sites, with every kind of target."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(1)
    x = rng.normal(size=(120, 4)).astype(np.float32)
    y = x @ np.array([1.0, -2.0, 0.5, 0.0], np.float32) + 0.1 * rng.normal(size=120).astype(np.float32)
    shared: Any = {
        "x": x,
        "site": np.array(list("abc"))[np.arange(120) % 3],
        "sex": np.array(["f", "m"])[np.arange(120) % 2],
    }
    times: Any = {
        "t": rng.exponential(np.exp(-x[:, 0])).astype(np.float32),
        "e": (rng.random(120) < 0.7).astype(np.int64),
    }
    bad = (rng.random(120) < 0.2).astype(np.int64)
    np.savez(folder / "numbers.npz", **shared, **times, y=y, bad=bad)
    np.savez(folder / "classes.npz", **shared, y=(y > 0.0).astype(np.int64))
    return folder


@pytest.fixture
def study(data: Path) -> Study:
    def make(kind: str, **sections: Any) -> StudyPlan:
        model, learned = TARGETS[kind]
        file = "classes.npz" if kind == "classes" else "numbers.npz"
        source = {"adapter": "npz", "path": str(data / file), "columns": ["site"], "weights": str(data)}
        wanted: dict[str, Any] = {
            "name": "small",
            "purpose": "A test.",
            "seed": 3,
            "model": model,
            "data": {"kind": "array", "shape": [4], **learned},
            "training": {"optimizer": "sgd", "learning_rate": 0.05, "batch_size": 16, "epochs": 1},
            "rounds": {"count": 2, "deadline_seconds": 60.0},
            "evaluation": {"validation": 0.2, "test": 0.3},
            "simulation": {"partition": "column:site", "data": source},
        }
        for name, values in sections.items():
            wanted[name] = wanted["evaluation"] | values if name == "evaluation" else values
        return parse_plan(wanted)

    return make


def run(plan: StudyPlan, path: Path, engine: Engine = "inline") -> Results:
    folder = RunFolder.create(path)
    folder.save_plan(plan)
    try:
        return simulate(plan, folder, machine=Machine(engine=engine, workers=2), observer=Quiet())
    finally:
        folder.close()


def apart(one: Path, other: Path, file: str = "model.safetensors") -> float:
    """Return the largest difference of a coordinate."""
    own, its = load_file(one / file), load_file(other / file)
    assert set(own) == set(its)
    return max(float(np.abs(own[name] - its[name]).max()) for name in own)


def both(
    open_plan: StudyPlan, masked_plan: StudyPlan, tmp_path: Path, engine: Engine = "inline"
) -> tuple[Results, Results]:
    """Run both, and hold their models within the fixed-point step of each other."""
    opened, masked = run(open_plan, tmp_path / "open", engine), run(masked_plan, tmp_path / "masked", engine)
    assert apart(tmp_path / "open", tmp_path / "masked") < STEP
    assert opened.final is not None
    assert masked.final is not None
    assert masked.final.worst_site is None
    return opened, masked


def same_figures(opened: Results, masked: Results) -> None:
    assert opened.final is not None
    assert masked.final is not None
    shown, hidden = opened.final.weighted_mean, masked.final.weighted_mean
    assert shown is not None
    assert hidden is not None
    assert hidden.num_examples == shown.num_examples == 36
    for figure in ("accuracy", "rmse", "mae", "r2", "c_index", "roc_auc", "reconstruction_error", "anomaly_error"):
        own, its = getattr(shown, figure), getattr(hidden, figure)
        assert (own is None) == (its is None), figure
        if own is not None:
            assert its == pytest.approx(own, rel=1e-4), figure


@pytest.mark.parametrize("kind", ["number", pytest.param("anomalies", marks=pytest.mark.slow)])
def test_a_masked_studys_figures_of_a_target_are_the_open_ones(study: Study, tmp_path: Path, kind: str) -> None:
    same_figures(*both(study(kind), study(kind, privacy=MASKS), tmp_path))


@pytest.mark.slow
def test_between_processes_they_are_too(study: Study, tmp_path: Path) -> None:
    same_figures(*both(study("survival"), study("survival", privacy=MASKS), tmp_path, "local"))


def test_groups_and_costs_are_decided_the_same_under_masks(study: Study, tmp_path: Path) -> None:
    weighed = {
        "groups": {"sex": ["f", "m"]},
        "minimum_group": 5,
        "cost": {"false_negative": 5.0, "false_positive": 1.0},
    }
    opened, masked = both(
        study("classes", evaluation=weighed), study("classes", evaluation=weighed, privacy=MASKS), tmp_path
    )
    assert opened.final is not None
    assert masked.final is not None
    assert masked.final.decisions is not None
    assert [group.num_examples for group in masked.final.decisions.fairness[0].groups] == [18, 18]
    assert masked.final.decisions == opened.final.decisions


MLP = {"name": "mlp", "hidden": [8]}


@pytest.mark.slow
@pytest.mark.parametrize("method", ["ditto", "finetune", "fedper"])
def test_a_sites_own_model_is_the_same_under_masks_and_its_figures_stay(
    study: Study, tmp_path: Path, method: str
) -> None:
    own = {"model": MLP, "personalisation": {"method": method}}
    opened, masked = both(study("classes", **own), study("classes", **own, privacy=MASKS), tmp_path)
    assert opened.final is not None
    assert masked.final is not None
    assert opened.final.personal is not None
    assert masked.final.personal is None
    assert all(site.personal is None for site in masked.sites)
    for site in (1, 2, 3):
        assert apart(tmp_path / "open", tmp_path / "masked", f"sites/{site}/personal.safetensors") < STEP


@pytest.mark.slow
@pytest.mark.parametrize("method", ["ditto", "finetune", "fedper"])
def test_a_sites_own_model_follows_the_noised_one_and_has_no_more_noise(
    study: Study, tmp_path: Path, method: str
) -> None:
    own = {"model": MLP, "personalisation": {"method": method}}
    run(study("classes", **own, privacy={"weights": "equal", "clipping_bound": 1.0}), tmp_path / "open")
    noised = {"weights": "equal", "differential": SITE_NOISE}
    masks = {"coordinate_range": 6.0, "cohort": "changing"}
    run(study("classes", **own, privacy=noised | {"secure_aggregation": masks}), tmp_path / "noised")
    deviation = 0.05 / 3 * np.sqrt(2)  # of the mean over three sites, twice
    assert deviation < apart(tmp_path / "open", tmp_path / "noised") < 5 * deviation
    for site in (1, 2, 3):
        found = apart(tmp_path / "open", tmp_path / "noised", f"sites/{site}/personal.safetensors")
        assert 0.0 < found < 5 * deviation


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "method"), [("number", "shapley"), ("survival", "integrated_gradients"), ("classes", "shapley")]
)
def test_under_masks_a_target_is_explained_as_in_the_open(study: Study, tmp_path: Path, kind: str, method: str) -> None:
    explain = {"explain": {"method": method, "examples": 30, "minimum_examples": 2, "steps": 16}}
    opened, masked = both(study(kind, evaluation=explain), study(kind, evaluation=explain, privacy=MASKS), tmp_path)
    assert opened.explanation is not None
    assert masked.explanation is not None
    assert masked.explanation.unexplained == {}
    assert masked.explanation.explained == opened.explanation.explained
    for own, its in zip(opened.explanation.views[0].importance, masked.explanation.views[0].importance, strict=True):
        np.testing.assert_allclose(np.array(its), np.array(own), atol=1e-5)


@pytest.mark.slow
def test_adapters_are_trained_with_noise_for_a_person_and_only_they_travel(
    study: Study, data: Path, tmp_path: Path
) -> None:
    from hansa_common.models.assembly import assemble

    model = {"name": "transformer", "width": 8, "layers": 1, "heads": 2, "feedforward": 16}
    plain = study("classes", model=model)
    whole = assemble(plain.model, plain.data, folder=None).module.state_dict()
    save_file({name: values.numpy() for name, values in whole.items()}, data / "w.safetensors")
    digest = hashlib.sha256((data / "w.safetensors").read_bytes()).hexdigest()
    backbone = {"file": "w.safetensors", "sha256": digest, "frozen": True}
    adapted = model | {"backbone": backbone, "lora": {"rank": 2}}
    training = {"optimizer": "sgd", "learning_rate": 0.05, "batch_size": 16, "steps": 5}
    private = {"weights": "equal", "differential": PERSON_NOISE}
    results = run(study("classes", model=adapted, training=training, privacy=private), tmp_path / "run")
    adapters = 4 * 2 * (8 + 8) + 2 * 2 * (8 + 16) + 2 * (1 + 8) + 2 * 8 + 2  # attention, dense, tokens, output
    assert results.status == "completed"
    assert results.parameters == adapters < sum(values.numel() for values in whole.values())
    assert results.final is not None
    assert results.final.weighted_mean is None
    assert all(entry.train_loss is None for entry in results.rounds)
    both(
        study("classes", model=adapted, training=training),
        study("classes", model=adapted, training=training, privacy=MASKS),
        tmp_path,
    )


PERSONS = {"weights": "equal", "differential": PERSON_NOISE}
SITES = {"weights": "equal", "differential": SITE_NOISE | {"kind": "site_server", "noise_multiplier": 1.0}}


@pytest.mark.parametrize(
    ("kind", "sections", "why", "what_to_do"),
    [
        ("number", {"privacy": PERSONS}, "is for classes", "data.target.kind"),
        ("survival", {"privacy": PERSONS}, "compares examples with each other", "privacy.differential.kind"),
        ("anomalies", {"privacy": PERSONS}, "draws a latent variable", "privacy.differential.kind"),
        ("number", {"evaluation": {"groups": {"sex": ["f"]}}}, "two classes are needed", "leave both keys out"),
        (
            "classes",
            {"privacy": SITES, "evaluation": {"groups": {"sex": ["f"]}}},
            "lets no such counts out",
            "leave out [privacy.differential]",
        ),
        ("classes", {"privacy": SITES, "evaluation": {"explain": {"method": "shapley"}}}, "no noise", "leave out one"),
        ("anomalies", {"evaluation": {"explain": {"method": "shapley"}}}, "no score to explain", "leave the section"),
        ("survival", {"privacy": MASKS, "aggregation": {"strategy": "newton"}}, "Hessians", "leave out [privacy]"),
        (
            "classes",
            {"privacy": PERSONS, "personalisation": {"method": "ditto"}},
            "without noise",
            "leave out [personalisation]",
        ),
        ("number", {"privacy": MASKS, "transport": {"codec": "int8"}}, "not linear", "Leave out transport.codec"),
    ],
)
def test_what_does_not_go_together_is_refused_with_the_way_out(
    study: Study, kind: str, sections: dict[str, Any], why: str, what_to_do: str
) -> None:
    if sections.get("privacy") is PERSONS:
        sections = sections | {"training": {"optimizer": "sgd", "steps": 5}}
    with pytest.raises(PlanError) as caught:
        study(kind, **sections)
    assert why in str(caught.value)
    assert what_to_do in f"{caught.value} {caught.value.advice}"
