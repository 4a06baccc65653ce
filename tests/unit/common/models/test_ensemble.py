import pytest
import torch
from tests.unit.common.models.model_checks import table

from hansa_common.errors import UsageError, WeightsUnavailable
from hansa_common.model_plan import ModelPlan
from hansa_common.models.assembly import load_model
from hansa_common.models.ensemble import load_ensemble
from hansa_common.models.networks.mean_answer import MeanAnswer

PLAN, DATA = ModelPlan(name="logistic"), table(4)


def members(count: int) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        {"linear.weight": torch.randn(3, 4, generator=generator), "linear.bias": torch.randn(3, generator=generator)}
        for _ in range(count)
    ]


def test_probabilities_are_averaged_and_not_logits() -> None:
    inputs, versions = 3 * torch.randn(5, 4, generator=torch.Generator().manual_seed(2)), members(3)
    network = load_ensemble(PLAN, DATA, versions, folder=None)
    alone = [load_model(PLAN, DATA, version, folder=None)(inputs) for version in versions]
    expected = torch.stack([logits.softmax(1) for logits in alone]).mean(0)
    torch.testing.assert_close(network(inputs).softmax(1), expected)
    torch.testing.assert_close(network(inputs).exp(), expected)
    assert not torch.allclose(torch.stack(alone).mean(0).softmax(1), expected, atol=1e-2)


def test_one_member_answers_as_itself() -> None:
    inputs, versions = torch.randn(5, 4), members(1)
    alone = load_model(PLAN, DATA, versions[0], folder=None)(inputs)
    torch.testing.assert_close(load_ensemble(PLAN, DATA, versions, folder=None)(inputs), alone.log_softmax(1))


def test_extreme_logits_stay_finite() -> None:
    version = {"linear.weight": torch.zeros(3, 4), "linear.bias": torch.tensor([0.0, 1e4, -1e4])}
    network = load_ensemble(PLAN, DATA, [version, members(1)[0]], folder=None)
    assert bool(torch.isfinite(network(torch.ones(2, 4))).all())


def test_numbers_are_averaged() -> None:
    members_of = [torch.nn.Linear(4, 1), torch.nn.Linear(4, 1)]
    inputs = torch.randn(5, 4)
    expected = (members_of[0](inputs) + members_of[1](inputs)) / 2
    torch.testing.assert_close(MeanAnswer(members_of, are_logits=False)(inputs), expected)


def test_no_members_and_members_of_another_model_are_refused() -> None:
    with pytest.raises(UsageError, match="at least one model"):
        load_ensemble(PLAN, DATA, [], folder=None)
    with pytest.raises(WeightsUnavailable, match="not those of the plan's model"):
        load_ensemble(PLAN, DATA, [{"dense.weight": torch.ones(1)}], folder=None)
