import torch
from tests.unit.common.models.model_checks import array, fit, shapes, table

from hansa_common.models import ARCHITECTURES
from hansa_common.models.linear import LinearOptions, build


def test_one_linear_layer_of_zeros_over_all_features() -> None:
    model = build(LinearOptions(), array(4, 5))
    assert shapes(model) == {"linear.weight": (1, 20), "linear.bias": (1,)}
    assert not any(parameter.any() for parameter in model.parameters())
    assert model(torch.ones(7, 4, 5)).shape == (7, 1)


def test_squared_error_leads_to_the_normal_equations() -> None:
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(50, 2, generator=generator)
    numbers = features @ torch.tensor([[2.0], [-1.0]]) + 3.0 + 0.1 * torch.randn(50, 1, generator=generator)
    model = build(LinearOptions(), table(2))
    fit(model.parameters(), lambda: (model(features) - numbers).square().mean(), steps=400, rate=0.1)
    solution = torch.linalg.lstsq(torch.cat((features, torch.ones(50, 1)), 1), numbers).solution
    found = torch.cat([parameter.detach().reshape(-1) for parameter in model.parameters()])
    torch.testing.assert_close(found, solution[:, 0], atol=1e-3, rtol=0.0)


def test_it_learns_a_number_only() -> None:
    assert ARCHITECTURES.find("linear").learns == {"number"}
