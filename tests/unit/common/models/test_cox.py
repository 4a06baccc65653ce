import torch
from tests.unit.common.models.model_checks import fit, shapes, table

from hansa_common.models import ARCHITECTURES
from hansa_common.models.cox import CoxOptions, build


def test_one_linear_layer_of_zeros_without_a_bias() -> None:
    model = build(CoxOptions(), table(39))
    assert shapes(model) == {"linear.weight": (1, 39)}
    assert not any(parameter.any() for parameter in model.parameters())
    assert model(torch.ones(7, 39)).shape == (7, 1)


def test_it_computes_x_beta() -> None:
    model = build(CoxOptions(), table(3))
    model.load_state_dict({"linear.weight": torch.tensor([[1.0, -2.0, 0.5]])})
    assert model(torch.tensor([[1.0, 1.0, 2.0]])).tolist() == [[0.0]]


def test_the_partial_likelihood_finds_the_hazards_that_made_the_data() -> None:
    """Cox 1972, equation 12, without ties: exponential times with log hazard x_1 - x_2."""
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(400, 2, generator=generator)
    hazards = (features @ torch.tensor([1.0, -1.0])).exp()
    times = -torch.rand(400, generator=generator).log() / hazards
    ordered = features[times.argsort()]
    model = build(CoxOptions(), table(2))

    def loss() -> torch.Tensor:
        log_hazards = model(ordered)[:, 0]
        at_risk = log_hazards.flip(0).logcumsumexp(0).flip(0)
        mean: torch.Tensor = (at_risk - log_hazards).mean()
        return mean

    fit(model.parameters(), loss, steps=100, rate=0.05)
    found = next(model.parameters()).detach()
    torch.testing.assert_close(found, torch.tensor([[1.0, -1.0]]), atol=0.2, rtol=0.0)


def test_it_learns_survival_only_and_is_not_for_private_training() -> None:
    architecture = ARCHITECTURES.find("cox")
    assert architecture.learns == {"survival"}
    assert "compares examples" in architecture.unsuited_to_privacy(CoxOptions())
