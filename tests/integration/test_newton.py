"""A study by Newton's method, through the study and the sites' own session, against fits of the pooled examples."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy import optimize
from sklearn.linear_model import LogisticRegression
from tests.integration.test_site_algorithms import (
    SITES,
    DiesAfter,
    InProcess,
    Interrupted,
    carried,
    examples,
    run,
)

from hansa_common.errors import StudyFailed
from hansa_common.messages import Message, TrainTask
from hansa_common.metrics import CountsKind
from hansa_common.plan import StudyPlan
from hansa_server.exchange import Answer, Deadline

Floats = npt.NDArray[np.float64]
FEATURES, ROUNDS = 4, 7


@pytest.fixture
def fit(make_plan: Callable[..., StudyPlan], tmp_path: Path) -> Callable[..., StudyPlan]:
    """Make a plan over 240 made-up examples, with classes or times."""

    def make(*, classes: int = 0, model: dict[str, Any], ridge: float = 0.0, rounds: int = ROUNDS) -> StudyPlan:
        rng = np.random.default_rng(5)
        x = (rng.normal(size=(240, FEATURES)) * [1.0, 0.2, 3.0, 1.0]).astype(np.float32)
        signal = x @ rng.normal(size=(FEATURES, max(classes, 1)))
        data: dict[str, Any] = {"kind": "array", "shape": [FEATURES]}
        if classes:
            labels = np.argmax(signal + rng.gumbel(size=signal.shape), axis=1)
            np.savez(tmp_path / "data.npz", x=x, y=labels)
            data["classes"] = [str(label) for label in range(classes)]
        else:
            times, ends = rng.exponential(np.exp(-0.3 * signal[:, 0])), rng.exponential(2.0, len(x))
            months = np.ceil(np.minimum(times, ends) * 10)  # many at one time
            np.savez(tmp_path / "data.npz", x=x, months=months, died=(times <= ends).astype(np.int64))
            data["target"] = {"kind": "survival", "time": "months", "event": "died"}
        return make_plan(
            aggregation={"strategy": "newton", "ridge": ridge},
            rounds={"count": rounds},
            replaced={
                "data": data,
                "model": model,
                "simulation": {
                    "sites": SITES,
                    "partition": "dirichlet:1.0" if classes else "quantity:2.0",
                    "data": {"adapter": "npz", "path": str(tmp_path / "data.npz")},
                },
            },
        )

    return make


def pooled(plan: StudyPlan) -> tuple[Floats, npt.NDArray[np.int64]]:
    parts = [examples(plan, index) for index in range(SITES)]
    return np.concatenate([x for x, _ in parts]), np.concatenate([y for _, y in parts])


def scikit_learn(plan: StudyPlan, ridge: float) -> LogisticRegression:
    x, y = pooled(plan)
    strength = 1.0 / (len(y) * ridge) if ridge else np.inf
    return LogisticRegression(C=strength, solver="newton-cholesky", tol=1e-12, max_iter=1_000).fit(x, y)


@pytest.mark.parametrize("ridge", [0.0, 0.01])
def test_one_logit_is_scikit_learn_s_fit_of_all_examples(
    fit: Callable[..., StudyPlan], tmp_path: Path, ridge: float
) -> None:
    plan = fit(classes=2, model={"name": "logistic", "outputs": "sigmoid"}, ridge=ridge)
    exchange = InProcess()
    run(plan, tmp_path / "run", exchange)
    oracle = scikit_learn(plan, ridge)
    np.testing.assert_allclose(carried(tmp_path / "run"), [*oracle.coef_[0], *oracle.intercept_], rtol=0, atol=1e-6)
    assert exchange.sizes["update"] == {2 * (1 + 5 + 15)}


@pytest.mark.parametrize("ridge", [0.0, 0.01])
def test_softmax_is_scikit_learn_s_fit_but_for_what_all_classes_share(
    fit: Callable[..., StudyPlan], tmp_path: Path, ridge: float
) -> None:
    plan = fit(classes=3, model={"name": "logistic"}, ridge=ridge)
    run(plan, tmp_path / "run")
    oracle, vector = scikit_learn(plan, ridge), carried(tmp_path / "run").astype(np.float64)
    weights, biases = vector[:12].reshape(3, 4), vector[12:]
    for found, expected in ((weights, oracle.coef_), (biases, oracle.intercept_)):
        np.testing.assert_allclose(found - found.mean(axis=0), expected - expected.mean(axis=0), rtol=0, atol=1e-6)
    if ridge:  # which of the fits is then decided
        np.testing.assert_allclose(weights, oracle.coef_, rtol=0, atol=1e-6)


def stratified_score(w: Floats, strata: Sequence[tuple[Floats, Floats]]) -> Floats:
    """Cox 1972, equation 12, with everybody at risk at the time of an event (Breslow), site by site."""
    score = np.zeros(FEATURES)
    for x, outcome in strata:
        hazards = np.exp(x @ w)
        for person in np.flatnonzero(outcome[:, 1] > 0):
            at_risk = outcome[:, 0] >= outcome[person, 0]
            score += x[person] - hazards[at_risk] @ x[at_risk] / hazards[at_risk].sum()
    return score


def test_cox_regression_is_the_pooled_fit_stratified_by_site(fit: Callable[..., StudyPlan], tmp_path: Path) -> None:
    plan = fit(model={"name": "cox"})
    run(plan, tmp_path / "run")
    strata: list[Any] = [examples(plan, index) for index in range(SITES)]
    oracle = optimize.root(stratified_score, np.zeros(FEATURES), args=(strata,), tol=1e-12)
    assert np.abs(oracle.fun).max() < 1e-8
    np.testing.assert_allclose(carried(tmp_path / "run"), oracle.x, rtol=0, atol=1e-6)
    one = [tuple(np.concatenate(parts) for parts in zip(*strata, strict=True))]
    unstratified: Any = optimize.root(stratified_score, np.zeros(FEATURES), args=(one,), tol=1e-12)
    assert np.abs(unstratified.x - oracle.x).max() > 1e-3  # the oracle can tell them apart


def test_a_study_that_is_killed_goes_on_to_the_same_bits(fit: Callable[..., StudyPlan], tmp_path: Path) -> None:
    plan = fit(classes=2, model={"name": "logistic", "outputs": "sigmoid", "initial": "uniform"}, rounds=4)
    run(plan, tmp_path / "whole")
    with pytest.raises(Interrupted):
        run(plan, tmp_path / "killed", observer=DiesAfter(2))
    exchange = InProcess()
    run(plan, tmp_path / "killed", exchange)
    assert min(number for number, _node, _basis in exchange.bases) == 3
    assert carried(tmp_path / "killed").tobytes() == carried(tmp_path / "whole").tobytes()


class Shortened(InProcess):
    """The second site sends as many values as the model has, as in any other study."""

    def ask(self, requests: Sequence[tuple[int, Message]], *, deadline: Deadline, kind: CountsKind) -> Iterator[Answer]:
        trains = any(isinstance(message.header, TrainTask) for _, message in requests)
        for answer in super().ask(requests, deadline=deadline, kind=kind):
            message = answer.message
            if trains and answer.node == 2 and message is not None and message.vector is not None:
                message = replace(message, vector=message.vector[:5])
            yield replace(answer, message=message)


def test_an_update_of_the_model_s_size_is_refused_by_its_site_s_name(
    fit: Callable[..., StudyPlan], tmp_path: Path
) -> None:
    plan = fit(classes=2, model={"name": "logistic", "outputs": "sigmoid"})
    with pytest.raises(StudyFailed, match=r"site-2 sent 5 values; due are 42"):
        run(plan, tmp_path / "run", Shortened())


def test_a_site_lets_no_update_of_another_size_out(
    fit: Callable[..., StudyPlan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = fit(classes=2, model={"name": "logistic", "outputs": "sigmoid"})
    monkeypatch.setattr("hansa_client.training.newton.pack", lambda _found: np.zeros(5, np.float32))
    with pytest.raises(StudyFailed, match=r"the plan asks for float32 \[42\]"):
        run(plan, tmp_path / "run")
