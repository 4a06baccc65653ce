from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from hansa_client.leaks.analytic import Range, dense_first_layer, invert
from hansa_client.leaks.observation import observed
from hansa_client.leaks.pipeline import changed_plan
from hansa_client.leaks.similarity import EXACT, RECOVERED, match
from hansa_common.parameters import ParameterSpec, Tensor

UNIT = Range(low=0.0, high=1.0)
MASKED = {"weights": "equal", "secure_aggregation": {"coordinate_range": 1.0, "cohort": "fixed"}}
WHOLE_ROUND = {"training": {"optimizer": "adam", "batch_size": 32, "epochs": 2}}


def recovered(spec: ParameterSpec, delta: Any, originals: Any, threshold: float = EXACT) -> float:
    layer = dense_first_layer(spec, delta, originals.shape[1])
    assert layer is not None
    found = invert(*layer, UNIT, most=len(originals))
    return float((np.array(match(originals, found, UNIT.width)[1]) > threshold).mean())


def test_it_inverts_the_gradient_that_the_papers_write() -> None:
    """Oracle: autograd's gradient of a network that is written out here."""
    torch.manual_seed(2)
    weight, bias = torch.randn(256, 30, dtype=torch.float64), torch.zeros(256, dtype=torch.float64)
    last, examples = torch.randn(4, 256, dtype=torch.float64), torch.rand(3, 30, dtype=torch.float64)
    weight.requires_grad_()
    bias.requires_grad_()
    logits = torch.relu(examples @ weight.T + bias) @ last.T / 16
    torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1, 3])).backward()  # type: ignore[no-untyped-call]
    assert weight.grad is not None
    assert bias.grad is not None
    found = invert(-0.3 * weight.grad.numpy(), -0.3 * bias.grad.numpy(), UNIT, most=3)
    _, ratios = match(examples.numpy(), found, 1.0)
    assert min(ratios) > 100


@pytest.mark.parametrize("batch", [1, 2, 4])
def test_without_protection_every_image_of_a_small_batch_is_recovered(
    one_round: Callable[..., Any], batch: int
) -> None:
    """The attack works: without this, that it fails elsewhere would say nothing."""
    run = one_round(batch)
    views = observed(run.plan, run.updates).views
    assert [view.sites for view in views] == [(update.site,) for update in run.updates]
    shares = [recovered(run.spec, view.delta, originals) for view, originals in zip(views, run.originals, strict=True)]
    assert shares == [1.0] * 4


def test_noise_of_a_thousandth_of_the_norm_changes_nothing(one_round: Callable[..., Any]) -> None:
    run = one_round(4)
    rng = np.random.default_rng(5)
    for update, originals in zip(run.updates, run.originals, strict=True):
        noise = rng.standard_normal(update.delta.size)
        noise *= 1e-3 * np.linalg.norm(update.delta) / np.linalg.norm(noise)
        assert recovered(run.spec, (update.delta + noise).astype(np.float32), originals) == 1.0


def test_noise_as_large_as_the_update_ends_it(one_round: Callable[..., Any]) -> None:
    run = one_round(4)
    rng = np.random.default_rng(5)
    update = run.updates[0].delta
    noise = rng.standard_normal(update.size) * np.linalg.norm(update) / np.sqrt(update.size)
    assert recovered(run.spec, (update + 10 * noise).astype(np.float32), run.originals[0], RECOVERED) == 0.0


def test_a_masked_sum_of_whole_rounds_gives_no_image(one_round: Callable[..., Any]) -> None:
    run = one_round(None, replaced=WHOLE_ROUND)
    masked = changed_plan(run.plan, {"privacy": MASKED})
    (view,) = observed(masked, run.updates).views
    assert view.sites == tuple(update.site for update in run.updates)
    assert recovered(run.spec, view.delta, run.originals.reshape(-1, 64), RECOVERED) == 0.0


def test_a_masked_sum_of_single_examples_is_a_small_batch(one_round: Callable[..., Any]) -> None:
    """What secure aggregation does not promise: it hides whose an example is, not the example."""
    run = one_round(1)
    masked = changed_plan(run.plan, {"privacy": MASKED})
    (view,) = observed(masked, run.updates).views
    assert recovered(run.spec, view.delta, run.originals.reshape(-1, 64)) == 1.0


def test_a_model_without_a_dense_first_layer_is_not_inverted() -> None:
    tensors = (Tensor(name="conv", shape=(4, 1, 3, 3)), Tensor(name="bias", shape=(4,)))
    assert dense_first_layer(ParameterSpec(tensors=tensors), np.zeros(40, np.float32), 9) is None
    tensors = (Tensor(name="dense", shape=(4, 8)), Tensor(name="bias", shape=(4,)))
    assert dense_first_layer(ParameterSpec(tensors=tensors), np.zeros(36, np.float32), 9) is None
    assert dense_first_layer(ParameterSpec(tensors=tensors), np.zeros(36, np.float32), 8) is not None


def test_an_update_of_nothing_gives_nothing() -> None:
    assert invert(np.zeros((5, 3)), np.zeros(5), UNIT, most=4).shape == (0, 3)


def test_the_adversary_makes_no_more_guesses_than_there_are_examples() -> None:
    rng = np.random.default_rng(1)
    assert len(invert(rng.random((50, 6)), np.ones(50), UNIT, most=7)) == 7
