from dataclasses import replace

import numpy as np
import pytest
from tests.unit.server.strategies.played import SGD, made, matrix, rounds, shares, start, stepped

from hansa_server.strategies.fednova import accumulated


def gradients_at_full_weight(steps: int, momentum: float, pull: float = 0.0) -> float:
    """Oracle: run SGD on a gradient of 1 at rate 1, drawn back to where it began, and see how far it goes."""
    travelled = velocity = 0.0
    for _ in range(steps):
        velocity = momentum * velocity + 1.0 - pull * travelled
        travelled += velocity
    return travelled


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("steps", [1, 2, 7, 300])
def test_the_length_of_a_is_what_sgd_with_momentum_travels(steps: int, momentum: float) -> None:
    assert accumulated(steps, momentum) == pytest.approx(gradients_at_full_weight(steps, momentum), rel=1e-9)


@pytest.mark.parametrize("pull", [1e-12, 1e-4, 0.3, 0.999])
@pytest.mark.parametrize("steps", [1, 2, 7, 300])
def test_the_length_of_a_is_what_proximal_sgd_travels(steps: int, pull: float) -> None:
    assert accumulated(steps, 0.0, pull) == pytest.approx(gradients_at_full_weight(steps, 0.0, pull), rel=1e-9)


@pytest.mark.parametrize(("momentum", "mu"), [(0.0, 0.0), (0.9, 0.0), (0.0, 2.0)])
def test_it_is_equation_6_of_the_paper_over_rounds(momentum: float, mu: float) -> None:
    training = SGD.model_copy(update={"momentum": momentum})
    strategy, found = made("fednova", {"mu": mu}, training=training), start()
    x = found.astype(np.float64)
    for updates in rounds():
        p = shares(updates)
        length = np.array(
            [gradients_at_full_weight(update.steps, momentum, mu * SGD.learning_rate) for update in updates]
        )
        normalised = -matrix(updates) / length[:, None]  # eta * d_i
        x = x - (p @ length) * (p @ normalised)
        found = stepped(strategy, found, updates)
        assert np.allclose(found, x, atol=1e-5)


def test_sites_that_take_as_many_steps_are_averaged() -> None:
    (updates,) = rounds(1)
    alike = [replace(update, steps=12) for update in updates]
    assert np.allclose(stepped(made("fednova"), start(), alike), stepped(made("fedavg"), start(), alike), atol=1e-6)


@pytest.mark.parametrize("mu", [0.0, 0.1, 1.0])
def test_a_site_with_more_steps_does_not_move_the_optimum(mu: float) -> None:
    """Two quadratics ``(x - c)^2 / 2``: plain averaging settles near the busy site's ``c``, FedNova in the middle.

    Steps of rate .01 on ``(y - c)^2 / 2 + mu / 2 (y - x)^2`` end at ``(1 - (1 - .01 (1 + mu))^tau) / (1 + mu)`` of the
    way from ``x`` to ``c``.
    """
    settled = {}
    training = SGD.model_copy(update={"learning_rate": 0.01})
    for name in ("fedprox", "fednova"):
        strategy, x = made(name, {"mu": mu}, training=training), np.zeros(1, np.float32)
        (template, *_rest), *_ = rounds(1, size=1)
        for _ in range(300):
            updates = [
                replace(template, site=site, num_examples=1, steps=steps, delta=(c - x) * np.float32(way(mu, steps)))
                for site, c, steps in (("busy", 1.0, 50), ("idle", -1.0, 2))
            ]
            x = stepped(strategy, x, updates)
        settled[name] = float(x[0])
    assert settled["fedprox"] > 0.8
    assert abs(settled["fednova"]) < 0.15


def way(mu: float, steps: int) -> float:
    return float((1 - (1 - 0.01 * (1 + mu)) ** steps) / (1 + mu))
