"""Training and evaluation of what is no class, from a file to counts."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from hansa_client.data import ADAPTERS, Source
from hansa_client.data.learned import strata
from hansa_client.data.source import Dataset
from hansa_client.data.split import Splits, split_site
from hansa_client.training import SupervisedTraining
from hansa_client.training.losses import batch_loss, cox_losses, number_losses
from hansa_common.contract import NumberTarget, ReconstructionTarget
from hansa_common.errors import ContractViolation, DataError, SettingsError
from hansa_common.metrics import RegressionCounts, SurvivalCounts, counts_kind, scores
from hansa_common.plan import StudyPlan, parse_plan

CPU = torch.device("cpu")
TARGETS: dict[str, dict[str, Any]] = {
    "number": {"kind": "number", "unit": "cycles", "scale": 10.0, "minimum": -200.0},
    "survival": {"kind": "survival", "time": "months", "event": "died"},
    "reconstruction": {"kind": "reconstruction", "anomaly": "fault", "normal": ["ok"], "anomalous": ["bad"]},
}


MODELS: dict[str, dict[str, Any]] = {
    "number": {"name": "linear"},
    "survival": {"name": "cox"},
    "reconstruction": {"name": "mlp", "hidden": [4]},
}


def make_plan(target: dict[str, Any], *, table: bool = False, **training: Any) -> StudyPlan:
    data: dict[str, Any] = {"kind": "array", "shape": [4], "target": target}
    if table:
        columns = [{"name": f"x{number}"} for number in range(4)]
        data = {"kind": "table", "columns": columns, "target": target}
        data |= {"label": "y"} if target["kind"] == "number" else {}
    return parse_plan(
        {
            "name": "test",
            "purpose": "A test.",
            "model": MODELS[target["kind"]],
            "data": data,
            "training": {"epochs": 30, "learning_rate": 0.02, "batch_size": 50} | training,
            "rounds": {"count": 1},
        }
    )


def make_arrays(kind: str, count: int = 300) -> dict[str, np.ndarray[Any, Any]]:
    rng = np.random.default_rng(7)
    x = rng.normal(size=(count, 4)).astype(np.float32)
    signal = x @ np.array([3.0, -2.0, 1.0, 0.0])
    if kind == "number":
        return {"x": x, "y": 10.0 * signal + rng.normal(0, 1.0, count) + 20.0}
    if kind == "survival":
        times, ends = rng.exponential(np.exp(-signal)), rng.exponential(2.0, count)
        return {"x": x, "months": np.minimum(times, ends), "died": (times <= ends).astype(np.int64)}
    fault = rng.random(count) < 0.2
    x[:, 1], x[:, 3] = 2 * x[:, 0], x[:, 2]  # what is usual has two degrees of freedom
    x[fault] = rng.normal(0, 2.0, (int(fault.sum()), 4))
    return {"x": x, "fault": np.where(fault, "bad", "ok")}


def read(plan: StudyPlan, arrays: dict[str, np.ndarray[Any, Any]], folder: Path) -> Dataset:
    if plan.data.kind == "array":
        np.savez(folder / "data.npz", **arrays)  # type: ignore[arg-type]
        return ADAPTERS.find("npz")(Source(path=folder / "data.npz"), plan.data)
    columns = {f"x{number}": arrays["x"][:, number] for number in range(4)}
    columns |= {name: values for name, values in arrays.items() if name != "x"}
    lines = [",".join(columns)] + [",".join(map(str, row)) for row in zip(*columns.values(), strict=True)]
    (folder / "data.csv").write_text("\n".join(lines) + "\n")
    return ADAPTERS.find("csv")(Source(path=folder / "data.csv"), plan.data)


@pytest.mark.parametrize("kind", TARGETS)
def test_a_table_and_an_archive_give_the_same_examples(kind: str, tmp_path: Path) -> None:
    arrays = make_arrays(kind)
    there, here = (read(make_plan(TARGETS[kind], table=table), arrays, tmp_path) for table in (True, False))
    np.testing.assert_array_equal(there.features, here.features)
    np.testing.assert_array_equal(there.labels, here.labels)
    assert (there.targets is None) == (here.targets is None) == (kind == "reconstruction")
    if there.targets is not None and here.targets is not None:
        np.testing.assert_array_equal(there.targets, here.targets)
        np.testing.assert_array_equal(here.take(np.array([3, 1])).targets, here.targets[[3, 1]])


@pytest.mark.parametrize("kind", TARGETS)
def test_a_model_learns_it(kind: str, tmp_path: Path) -> None:
    plan = make_plan(TARGETS[kind], learning_rate=0.1 if kind == "number" else 0.02)
    dataset = read(plan, make_arrays(kind), tmp_path)
    splits = split_site(plan, dataset, np.arange(len(dataset)), 1)
    site = SupervisedTraining(plan=plan, dataset=dataset, splits=splits, device=CPU)
    start = site.initial(0)
    trained = start + site.train(start, round_number=1, seed=1).delta
    before, after = (scores(site.evaluate(parameters, "test")) for parameters in (start, trained))
    counts = site.evaluate(trained, "test")
    kind_of = counts_kind(plan.data)
    assert kind_of.from_arrays(counts.to_arrays()) == counts
    assert counts.has_histograms == kind_of.zero(histograms=True).has_histograms
    assert not site.evaluate(trained, "validation").has_histograms
    assert counts.num_examples == len(splits.test)
    assert after.loss is not None
    assert before.loss is not None
    assert after.loss < before.loss
    if kind == "number":
        assert after.r2 is not None
        assert after.r2 > 0.95
        assert after.rmse is not None
        assert after.rmse < 8.0  # cycles, not scales
    elif kind == "survival":
        assert after.c_index is not None
        assert after.c_index > 0.8
    else:
        assert after.roc_auc is not None
        assert after.roc_auc > 0.8


def test_anomalies_are_not_trained_on(tmp_path: Path) -> None:
    plan = make_plan(TARGETS["reconstruction"])
    dataset = read(plan, make_arrays("reconstruction"), tmp_path)
    splits = split_site(plan, dataset, np.arange(len(dataset)), 1)
    assert not dataset.labels[splits.train].any()
    assert dataset.labels[splits.test].any()


def test_numbers_are_stratified_by_tenths() -> None:
    assert strata(np.arange(20, dtype=np.float32)[::-1].copy()).tolist() == [n // 2 for n in range(20)][::-1]


@pytest.mark.parametrize(
    ("kind", "name", "value", "found"),
    [
        ("number", "y", np.nan, "NaN or infinite"),
        ("number", "y", -201.0, "least allowed is -200"),
        ("number", "y", 1e7, "times data.target.scale"),
        ("survival", "months", -1.0, "a time is negative"),
        ("survival", "died", 2, "found the class '2'"),
        ("reconstruction", "fault", "??", "found the class '??'"),
    ],
)
def test_what_cannot_be_learned_breaks_the_contract(
    kind: str, name: str, value: object, found: str, tmp_path: Path
) -> None:
    arrays = make_arrays(kind)
    arrays[name][5] = value
    with pytest.raises(ContractViolation) as error:
        read(make_plan(TARGETS[kind]), arrays, tmp_path)
    assert found in str(error.value)


def test_an_adapter_that_knows_classes_only_refuses_a_number() -> None:
    plan = make_plan(TARGETS["number"])
    with pytest.raises(DataError):
        ADAPTERS.find("digits")(Source(), plan.data)


def test_an_archive_with_its_own_targets_has_no_labels(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", **make_arrays("survival"))  # type: ignore[arg-type]
    source = Source(path=tmp_path / "data.npz", options={"labels": "died"})
    with pytest.raises(SettingsError):
        ADAPTERS.find("npz")(source, make_plan(TARGETS["survival"]).data)


def test_the_partial_likelihood_is_that_of_cox_with_breslow_s_ties() -> None:
    rng = np.random.default_rng(3)
    hazards, times = rng.normal(size=40), rng.integers(1, 8, 40).astype(np.float64)
    events = rng.integers(0, 2, 40)
    expected = np.zeros(40)
    for person in np.flatnonzero(events):
        at_risk = times >= times[person]
        expected[person] = np.log(np.exp(hazards[at_risk]).sum()) - hazards[person]
    found = cox_losses(*(torch.from_numpy(values) for values in (hazards, times, events)))
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-12)


def test_a_batch_without_events_teaches_nothing() -> None:
    model = nn.Linear(4, 1)
    plan = make_plan(TARGETS["survival"])
    assert plan.data.target is not None
    loss = batch_loss(plan.data.target, model, torch.randn(5, 4), torch.tensor([[1.0, 0.0]] * 5))
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == 0.0
    assert model.weight.grad is not None
    assert not model.weight.grad.any()


def test_huber_is_linear_beyond_one_scale() -> None:
    target = NumberTarget(kind="number", loss="huber")
    found = number_losses(target, torch.tensor([0.5, 3.0]), torch.zeros(2))
    assert found.tolist() == [0.125, 2.5]


class _WithItsOwnLoss(nn.Module):
    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs

    def loss(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs.mean() + 7.0


def test_a_module_may_bring_the_loss_of_its_reconstruction() -> None:
    target = ReconstructionTarget(kind="reconstruction")
    assert batch_loss(target, _WithItsOwnLoss(), torch.zeros(2, 3), torch.zeros(2)).item() == 7.0


def test_times_are_evaluated_over_the_whole_split_and_not_batch_by_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan(TARGETS["survival"])
    dataset = read(plan, make_arrays("survival"), tmp_path)
    splits = Splits(train=np.arange(100), validation=np.arange(100, 200), test=np.arange(200, 300))
    site = SupervisedTraining(plan=plan, dataset=dataset, splits=splits, device=CPU)
    parameters = np.random.default_rng(0).normal(size=site.spec.size).astype(np.float32)
    whole = site.evaluate(parameters, "test")
    assert isinstance(whole, SurvivalCounts)
    monkeypatch.setattr(site, "_evaluation_batch", 7)
    parts = site.evaluate(parameters, "test")
    assert isinstance(parts, SurvivalCounts)
    assert (parts.pairs, parts.concordant) == (whole.pairs, whole.concordant)
    assert parts.loss_units == pytest.approx(whole.loss_units, rel=1e-5)


def test_an_empty_split_has_empty_counts(tmp_path: Path) -> None:
    for kind, target in TARGETS.items():
        plan = make_plan(target)
        dataset = read(plan, make_arrays(kind), tmp_path)
        splits = Splits(train=np.arange(100), validation=np.arange(0), test=np.arange(200, 300))
        site = SupervisedTraining(plan=plan, dataset=dataset, splits=splits, device=CPU)
        assert site.evaluate(site.initial(0), "validation").num_examples == 0


def test_the_plan_s_constants_are_in_the_counts() -> None:
    plan = make_plan(TARGETS["number"])
    assert counts_kind(plan.data).zero(histograms=True) == RegressionCounts(scale=10.0)
