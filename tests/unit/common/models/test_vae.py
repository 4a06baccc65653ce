import math
from typing import Any

import pytest
import torch
from tests.unit.common.models.model_checks import (
    array,
    assert_the_gradient_reaches_all,
    assert_the_seed_decides,
    fit,
    image,
    shapes,
    size,
    table,
)

from hansa_common.models import ARCHITECTURES
from hansa_common.models.networks.autoencoder import Autoencoder
from hansa_common.models.vae import VAEOptions, build, check

SMALL = VAEOptions(hidden=(7,), latent=2)


def _autoencoder(options: VAEOptions, contract: Any) -> Autoencoder:
    torch.manual_seed(1)
    module = build(options, contract)
    assert isinstance(module, Autoencoder)
    return module


def test_its_dense_layers() -> None:
    assert shapes(_autoencoder(SMALL, array(5, 2))) == {
        "encoder.dense1.weight": (7, 10),
        "encoder.dense1.bias": (7,),
        "encoder.dense2.weight": (4, 7),
        "encoder.dense2.bias": (4,),
        "decoder.dense1.weight": (7, 2),
        "decoder.dense1.bias": (7,),
        "decoder.dense2.weight": (10, 7),
        "decoder.dense2.bias": (10,),
    }


def test_its_convolutions_halve_twice_and_come_back() -> None:
    module = _autoencoder(VAEOptions(encoder="convolutional", filters=(3, 4), latent=5), image(2, 8, 12))
    convolutions = (2 * 3 * 16 + 3) + (3 * 4 * 16 + 4) + (4 * 3 * 16 + 3) + (3 * 2 * 16 + 2)
    assert size(module) == convolutions + (24 * 10 + 10) + (5 * 24 + 24)
    assert module(torch.rand(3, 2, 8, 12)).shape == (3, 2, 8, 12)


@pytest.mark.parametrize("contract", [array(5, 2), table(6), image(1, 4, 4)])
def test_a_reconstruction_has_the_inputs_shape_and_is_not_drawn(contract: Any) -> None:
    module, inputs = _autoencoder(SMALL, contract), torch.rand(3, *contract.feature_shape)
    assert module(inputs).shape == inputs.shape
    assert torch.equal(module(inputs), module(inputs))


def test_the_divergence_is_that_of_two_normal_densities() -> None:
    """Oracle: the integral of q log(q / p) on a fine grid, for each of two dimensions."""
    mean, log_variance = torch.tensor([[0.7, -1.2]]), torch.tensor([[-1.0, 0.4]])
    grid = torch.linspace(-12, 12, 200_001, dtype=torch.float64)
    expected = 0.0
    for mu, log in zip(mean[0].double(), log_variance[0].double(), strict=True):
        log_q = -0.5 * (math.log(2 * math.pi) + log + (grid - mu).square() / log.exp())
        log_p = -0.5 * (math.log(2 * math.pi) + grid.square())
        expected += float(torch.trapezoid(log_q.exp() * (log_q - log_p), grid))
    assert float(Autoencoder.divergence(mean, log_variance)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("likelihood", "beta"), [("gaussian", 1.0), ("gaussian", 0.25), ("bernoulli", 4.0)])
def test_the_loss_is_reconstruction_and_weighted_divergence(likelihood: Any, beta: float) -> None:
    """Oracle: log densities of torch.distributions, with the same draw."""
    contract = array(5, 2, minimum=0, maximum=1)
    module = _autoencoder(SMALL.model_copy(update={"beta": beta, "likelihood": likelihood}), contract)
    inputs = torch.rand(4, 5, 2)
    torch.manual_seed(5)
    loss = module.loss(inputs)
    mean, log_variance = module.encode(inputs)
    torch.manual_seed(5)
    posterior = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    decoded = module.decoder(mean + posterior.scale * torch.randn_like(mean))
    if likelihood == "gaussian":
        log_likelihood = -0.5 * (inputs - decoded).square()
    else:
        log_likelihood = inputs * decoded.sigmoid().log() + (1 - inputs) * (1 - decoded.sigmoid()).log()
    prior = torch.distributions.Normal(0.0, 1.0)
    divergence = torch.distributions.kl_divergence(posterior, prior).sum(1)
    torch.testing.assert_close(loss, (-log_likelihood.sum((1, 2)) + beta * divergence).mean())


def test_bernoulli_reconstructions_are_probabilities() -> None:
    options = SMALL.model_copy(update={"likelihood": "bernoulli"})
    reconstruction = _autoencoder(options, image(1, 4, 4))(10 * torch.randn(9, 1, 4, 4))
    assert 0 < float(reconstruction.detach().min()) < float(reconstruction.detach().max()) < 1


@pytest.mark.parametrize(
    ("options", "contract", "message"),
    [
        ({"encoder": "convolutional"}, array(8, 8), "'convolutional' is for images; data.kind is 'array'"),
        ({"encoder": "convolutional"}, image(1, 8, 10), "4n x 4m pixels, not 8x10"),
        ({"likelihood": "bernoulli"}, array(8), "data.minimum = 0 and data.maximum = 1"),
        ({"likelihood": "bernoulli"}, array(8, minimum=0, maximum=2), "data.maximum = 1"),
        ({"likelihood": "bernoulli"}, table(8), "values in 0 to 1"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, Any], contract: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check(VAEOptions(**options), contract)
    check(VAEOptions(likelihood="bernoulli", encoder="convolutional"), image(1, 8, 12))


def test_it_learns_reconstruction_only() -> None:
    assert ARCHITECTURES.find("vae").learns == {"reconstruction"}


@pytest.mark.parametrize("encoder", ["dense", "convolutional"])
def test_the_gradient_reaches_every_parameter_and_the_seed_decides(encoder: Any) -> None:
    options, contract = SMALL.model_copy(update={"encoder": encoder}), image(1, 8, 8)
    module = _autoencoder(options, contract)
    assert_the_gradient_reaches_all(module, module.loss(torch.rand(8, 1, 8, 8)))
    assert_the_seed_decides(lambda: build(options, contract))


def test_trained_on_a_line_it_scores_what_lies_off_the_line_higher() -> None:
    generator = torch.Generator().manual_seed(1)
    direction = torch.nn.functional.normalize(torch.randn(8, generator=generator), dim=0)
    normal = 3 * torch.randn(128, 1, generator=generator) * direction
    strange = 3 * torch.nn.functional.normalize(torch.randn(64, 8, generator=generator), dim=1)
    module = _autoencoder(VAEOptions(hidden=(16,), latent=2), array(8))
    fit(module.parameters(), lambda: module.loss(normal), steps=150, rate=0.02)
    with torch.no_grad():
        usual, unusual = module.score(normal[:64]), module.score(strange)
    wins = (unusual[:, None] > usual[None]).float().mean()
    assert float(wins) > 0.9  # the ROC AUC; guessing gives 0.5
    assert usual.shape == (64,)
