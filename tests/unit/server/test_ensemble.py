"""The last versions of a study's model as one: kept, tested beside the last one alone, and there for whoever reads."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from safetensors.numpy import load_file
from tests.conftest import small_study

from hansa_client.simulated import divide, site_splits
from hansa_common.errors import PlanError, StorageError, StudyFailed
from hansa_common.messages import Opened
from hansa_common.metrics import ClassificationCounts
from hansa_common.models.ensemble import load_ensemble, load_members
from hansa_common.parameters import MAX_PARAMETERS, ParameterSpec, Tensor
from hansa_common.plan import StudyPlan, parse_plan
from hansa_common.protection import evaluated_names, kind_of
from hansa_server.cli import override
from hansa_server.closing import are_declared
from hansa_server.engines.engine import Machine
from hansa_server.progress import Quiet
from hansa_server.results import Results
from hansa_server.simulation import simulate
from hansa_server.store import RunFolder
from hansa_server.versions import Versions

Make = Callable[..., StudyPlan]
MASKS = {"weights": "equal", "secure_aggregation": {"cohort": "fixed", "coordinate_range": 4.0}}
NOISE = {"kind": "site_server", "clipping_bound": 1.0, "noise_multiplier": 1.0, "epsilon": 800.0, "delta": 1e-5}


def run(plan: StudyPlan, path: Path) -> Results:
    folder = RunFolder.open(path) if (path / "plan.toml").exists() else RunFolder.create(path)
    folder.save_plan(plan)
    try:
        return simulate(plan, folder, machine=Machine(engine="inline"), observer=Quiet())
    finally:
        folder.close()


def probabilities(file: Path, features: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """What a saved logistic regression answers, by hand: ``[N, K]``."""
    tensors = load_file(file)
    logits = features.astype(np.float64) @ tensors["linear.weight"].T.astype(np.float64) + tensors["linear.bias"]
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    values: npt.NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return values


def mean_of(files: list[Path], features: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return the mean of what they answer, ``[N, K]``."""
    mean: npt.NDArray[np.float64] = np.mean([probabilities(file, features) for file in files], axis=0)
    return mean


def area(scores: npt.NDArray[np.float64], positive: npt.NDArray[np.bool_]) -> float:
    """The area under the ROC curve: of all pairs, how many are in the right order; a tie is half a pair."""
    difference = scores[positive][:, None] - scores[~positive][None]
    return float((difference > 0).mean() + (difference == 0).mean() / 2)


@pytest.mark.parametrize("privacy", [{}, MASKS], ids=["open", "masked"])
def test_its_figures_are_those_of_the_mean_of_probabilities_of_the_saved_versions(
    tmp_path: Path, make_plan: Make, privacy: dict[str, Any]
) -> None:
    plan = make_plan(rounds={"count": 4, "deadline_seconds": 60.0}, evaluation={"ensemble": 3}, privacy=privacy)
    results = run(plan, tmp_path / "run")
    files = sorted((tmp_path / "run" / "versions").iterdir())
    assert [file.name for file in files] == ["000002.safetensors", "000003.safetensors", "000004.safetensors"]
    model = load_file(tmp_path / "run" / "model.safetensors")
    assert all(np.array_equal(model[name], values) for name, values in load_file(files[-1]).items())

    data = divide(plan).dataset
    tests = [site_splits(plan, site).test for site in range(4)]
    together = np.concatenate(tests)
    means = {"all": mean_of(files, data.features[together])}
    means |= {f"site-{number}": mean_of(files, data.features[own]) for number, own in enumerate(tests, start=1)}
    labels = {"all": data.labels[together]} | {f"site-{i + 1}": data.labels[own] for i, own in enumerate(tests)}
    right = {name: float((mean.argmax(1) == labels[name]).mean()) for name, mean in means.items()}

    assert results.final is not None
    ensemble = results.final.ensemble
    assert ensemble is not None
    assert ensemble.rounds == (4, 3, 2)
    assert ensemble.weighted_mean is not None
    assert ensemble.weighted_mean.num_examples == len(together)
    assert ensemble.weighted_mean.accuracy == pytest.approx(right["all"])
    areas = [area(means["all"][:, k], labels["all"] == k) for k in range(10)]
    assert ensemble.weighted_mean.roc_auc == pytest.approx(float(np.mean(areas)), abs=2e-3)  # it is counted in bins
    assert results.final.weighted_mean is not None
    assert results.final.weighted_mean.loss != ensemble.weighted_mean.loss
    if privacy:
        assert (ensemble.site_mean, ensemble.worst_site) == (None, None)
        assert all(site.ensemble is None for site in results.sites)
    else:
        found = {site.site: site.ensemble.accuracy for site in results.sites if site.ensemble is not None}
        assert found == pytest.approx({name: value for name, value in right.items() if name != "all"})
        assert ensemble.worst_site is not None
        assert found[ensemble.worst_site.site] == min(value for value in found.values() if value is not None)


def test_it_stands_in_report_card_and_tables_and_the_folder_answers(whole: tuple[Path, StudyPlan, Results]) -> None:
    import torch

    path, plan, results = whole
    assert results.final is not None
    assert results.final.ensemble is not None
    mean = results.final.ensemble.weighted_mean
    assert mean is not None
    assert f"3,,test,ensemble_weighted_mean_accuracy,{mean.accuracy!r}" in (path / "metrics.csv").read_text()
    for file in ("report.html", "MODEL_CARD.md"):
        text = (path / file).read_text()
        assert "Ensemble of the last 2 versions" in text
        assert "site-1, the ensemble" in text
    card = (path / "MODEL_CARD.md").read_text()
    code = card.split("The last 2 versions as one")[1].split("```python\n")[1].split("```")[0]
    names: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        exec(code, names)  # what the card says
    features = divide(plan).dataset.features[:50]
    answers = names["network"](torch.from_numpy(features)).exp().detach().numpy()
    expected = mean_of(list((path / "versions").iterdir()), features)
    assert answers == pytest.approx(expected, abs=1e-5)
    assert len(load_members(path / "versions")) == 2
    assert load_ensemble(plan.model, plan.data, load_members(path / "versions"), folder=None) is not None


class Killed(BaseException):
    """Stands for SIGKILL: nothing of the product catches it."""


def kill_at(patch: pytest.MonkeyPatch, owner: type, method: str, call: int) -> None:
    """Have the process die at one of the calls of a method, before it does anything."""
    real, calls = getattr(owner, method), itertools.count(1)

    def dying(*arguments: Any) -> Any:
        if next(calls) == call:
            raise Killed
        return real(*arguments)

    patch.setattr(owner, method, dying)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, StudyPlan, Results]:
    """A run that nothing stopped."""
    path = tmp_path_factory.mktemp("runs") / "run"
    plan = parse_plan(small_study(evaluation={"ensemble": 2}))
    return path, plan, run(plan, path)


@pytest.mark.parametrize(
    ("owner", "method", "call"),
    [(Versions, "add", 2), (RunFolder, "save_checkpoint", 3), (Versions, "tidy", 2), (Versions, "load", 1)],
)
def test_a_run_that_was_killed_has_the_same_members_in_the_end(
    tmp_path: Path,
    whole: tuple[Path, StudyPlan, Results],
    owner: type,
    method: str,
    call: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before, plan, results = whole
    path = tmp_path / "killed"
    with monkeypatch.context() as patch:
        kill_at(patch, owner, method, call)
        with pytest.raises(Killed):
            run(plan, path)
    resumed = run(plan, path)
    assert resumed.final is not None
    assert results.final is not None
    assert resumed.final.ensemble == results.final.ensemble
    names = [file.name for file in sorted((path / "versions").iterdir())]
    assert names == ["000002.safetensors", "000003.safetensors"]
    for name in names:
        assert (path / "versions" / name).read_bytes() == (before / "versions" / name).read_bytes()


def test_with_noise_the_versions_are_there_and_no_counts_of_them_leave(tmp_path: Path, make_plan: Make) -> None:
    privacy = {"weights": "equal", "differential": NOISE}
    results = run(make_plan(evaluation={"ensemble": 2}, privacy=privacy), tmp_path / "run")
    assert results.final is not None
    assert results.final.ensemble is not None
    assert results.final.ensemble.rounds == (3, 2)
    assert results.final.ensemble.weighted_mean is None
    assert len(load_members(tmp_path / "run" / "versions")) == 2
    assert "no counts of it leave the sites" in (tmp_path / "run" / "MODEL_CARD.md").read_text()


def test_no_counts_of_a_second_model_are_asked_for_where_a_budget_would_have_to_cover_them(make_plan: Make) -> None:
    noised = {"kind": "example", "sampling_rate": 0.05, "clipping_bound": 1.0, "noise_multiplier": 2.0}
    differential = noised | {"epsilon": 8.0, "delta": 1e-4, "metrics_noise": 4.0}
    training = {"optimizer": "sgd", "learning_rate": 0.5, "batch_size": 16, "steps": 4}
    privacy = {"weights": "equal", "differential": differential}
    plan = make_plan(evaluation={"ensemble": 2}, privacy=privacy, replaced={"training": training})
    assert plan.tested == 1
    assert evaluated_names(plan) == ("validation", "test")


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"evaluation": {"ensemble": 4}}, "evaluation.ensemble: found 4; allowed is at most rounds.count, which is 3"),
        ({"evaluation": {"ensemble": 1}}, "evaluation.ensemble"),
        ({"evaluation": {"ensemble": 101}}, "evaluation.ensemble"),
        (
            {"evaluation": {"ensemble": 2}, "personalisation": {"method": "fedper", "local": ["linear"]}},
            "evaluation.ensemble: with personalisation.method = 'fedper' layers stay at the sites",
        ),
    ],
)
def test_plans_without_such_versions_are_refused(make_plan: Make, sections: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        make_plan(**sections)


def test_the_digest_covers_it_and_is_the_old_one_without(make_plan: Make) -> None:
    plan = make_plan()
    assert (
        plan.digest()
        != make_plan(evaluation={"ensemble": 2}).digest()
        != make_plan(evaluation={"ensemble": 3}).digest()
    )
    assert "ensemble" not in str(plan.approved().model_dump(exclude_none=True))


@pytest.mark.slow
def test_ditto_s_common_model_has_versions(tmp_path: Path, make_plan: Make) -> None:
    plan = make_plan(evaluation={"ensemble": 2}, personalisation={"method": "ditto"})
    results = run(override(plan, rounds=2), tmp_path / "run")
    assert results.final is not None
    assert results.final.personal is not None
    assert results.final.ensemble is not None
    assert results.final.ensemble.site_mean is not None


def counted(examples: int, *, histograms: bool) -> ClassificationCounts:
    logits, labels = np.full((examples, 10), 0.1, np.float32), np.arange(examples) % 10
    return ClassificationCounts.of(logits, labels, np.ones(examples), histograms=histograms)


def test_a_site_s_counts_of_the_ensemble_are_of_the_test_split_that_it_declared(make_plan: Make) -> None:
    plan = make_plan(evaluation={"ensemble": 2})
    opened = Opened(
        plan_digest=plan.digest(),
        site="site-1",
        train=6,
        validation=4,
        test=5,
        class_counts=(),
        origin="",
        version="1",
        device="cpu",
    )
    right = {"validation": counted(4, histograms=False), "test": counted(5, histograms=True)}
    for wrong in (None, counted(6, histograms=True), counted(5, histograms=False)):
        assert not are_declared(opened, right | ({"ensemble": wrong} if wrong else {}), plan, kind_of(plan))
    told = right | {"ensemble": counted(5, histograms=True)}
    assert are_declared(opened, told, plan, kind_of(plan))
    assert not are_declared(opened, told, make_plan(), kind_of(plan))


SPEC = ParameterSpec(tensors=(Tensor(name="b", shape=(2,)), Tensor(name="a", shape=(2, 2)), Tensor(name="s", shape=())))


def test_versions_come_back_newest_first_and_in_the_order_of_the_model(tmp_path: Path) -> None:
    versions = Versions(tmp_path, 2)
    models = [np.arange(7, dtype=np.float32) + 10 * number for number in range(1, 4)]
    for number, model in enumerate(models, start=1):
        versions.add(number, SPEC, model)
        versions.tidy(number)
    assert versions.rounds(3) == (3, 2)
    assert versions.load(3, SPEC, models[2]).tolist() == [*models[2], *models[1]]
    assert len(list((tmp_path / "versions").iterdir())) == 2
    none = Versions(tmp_path / "other", 0)
    none.add(1, SPEC, models[0])
    none.tidy(1)
    assert none.load(1, SPEC, models[0]) is models[0]
    assert not (tmp_path / "other").exists()


def test_a_version_that_is_missing_or_another_model_s_is_named(tmp_path: Path) -> None:
    versions = Versions(tmp_path, 2)
    for number in (1, 2):
        versions.add(number, SPEC, np.zeros(7, np.float32))
    (tmp_path / "versions" / "000001.safetensors").unlink()
    with pytest.raises(StorageError, match=r"000001.safetensors cannot be read back"):
        versions.load(2, SPEC, np.zeros(7, np.float32))
    other = ParameterSpec(tensors=(Tensor(name="b", shape=(1, 2)), *SPEC.tensors[1:]))
    versions.add(1, other, np.zeros(7, np.float32))
    with pytest.raises(StorageError, match="'b' is not that of the study's model"):
        versions.load(2, SPEC, np.zeros(7, np.float32))


def test_versions_that_no_message_carries_are_refused_before_training(tmp_path: Path) -> None:
    large = ParameterSpec(tensors=(Tensor(name="w", shape=(MAX_PARAMETERS // 2 + 1,)),))
    with pytest.raises(StudyFailed, match="more than one exchange carries"):
        Versions(tmp_path, 2).require(large)
    Versions(tmp_path, 0).require(large)
