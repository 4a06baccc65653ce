"""Against torch's automatic differentiation of the losses that training uses."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from hansa_client.training.convex import cox_curvature, logistic_curvature
from hansa_client.training.losses import cox_losses
from hansa_common.curvature import Curvature

N, F = 60, 3


def features() -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    return np.random.default_rng(1).normal(size=(N, F))


def expect(found: Curvature, loss: object, parameters: Tensor) -> None:
    assert callable(loss)
    gradient = torch.autograd.functional.jacobian(loss, parameters)  # type: ignore[no-untyped-call]
    hessian = torch.autograd.functional.hessian(loss, parameters)  # type: ignore[no-untyped-call]
    assert found.loss == pytest.approx(float(loss(parameters)), rel=1e-12)
    np.testing.assert_allclose(found.gradient, gradient.numpy(), atol=1e-10)
    np.testing.assert_allclose(found.hessian, hessian.numpy(), atol=1e-10)


@pytest.mark.parametrize("outputs", [1, 2, 4])
def test_logistic_regression_is_what_torch_derives(outputs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hansa_client.training.convex._BATCH", 17)
    rng = np.random.default_rng(2)
    labels, parameters = rng.integers(0, max(outputs, 2), N), rng.normal(size=outputs * (F + 1))
    x = torch.from_numpy(features())

    def loss(vector: Tensor) -> Tensor:
        logits = x @ vector[: outputs * F].reshape(outputs, F).T + vector[outputs * F :]
        if outputs == 1:
            logits = functional.pad(logits, (1, 0))
        return functional.cross_entropy(logits, torch.from_numpy(labels), reduction="sum")

    expect(logistic_curvature(parameters, features(), labels), loss, torch.from_numpy(parameters))


@pytest.mark.parametrize("scale", [0.5, 40.0], ids=["usual hazards", "hazards that differ by e^200"])
def test_cox_regression_is_what_torch_derives(scale: float) -> None:
    rng = np.random.default_rng(3)
    parameters, x = scale * rng.normal(size=F), torch.from_numpy(features())
    times, events = rng.integers(1, 12, N).astype(np.float64), rng.random(N) < 0.6  # many at one time

    def loss(vector: Tensor) -> Tensor:
        return cox_losses(x @ vector, torch.from_numpy(times), torch.from_numpy(events.astype(np.float64))).sum()

    expect(cox_curvature(parameters, features(), times, events), loss, torch.from_numpy(parameters))


def test_hazards_beyond_any_float_stay_finite() -> None:
    times, events = np.arange(N, dtype=np.float64), np.ones(N, np.bool_)
    found = cox_curvature(np.full(F, 3_000.0), features(), times, events)
    assert np.isfinite([found.loss, *found.gradient, *found.hessian.ravel()]).all()


def test_a_site_without_events_says_nothing() -> None:
    found = cox_curvature(np.ones(F), features(), np.arange(N, dtype=np.float64), np.zeros(N, np.bool_))
    assert found.loss == 0.0
    assert not found.gradient.any()
    assert not found.hessian.any()
