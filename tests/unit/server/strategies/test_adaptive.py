"""FedAdagrad, FedAdam and FedYogi against algorithm 2 of Reddi et al., ICLR 2021, with whole vectors in float64."""

import numpy as np
import pytest
from tests.unit.server.strategies.played import made, matrix, rounds, shares, start, stepped

from hansa_common.errors import PlanError
from hansa_common.parameters import Accumulator


def paper(name: str, v: Accumulator, d: Accumulator, beta2: float) -> Accumulator:
    following: Accumulator
    if name == "fedadagrad":
        following = v + d**2
    elif name == "fedyogi":
        following = v - (1 - beta2) * d**2 * np.sign(v - d**2)
    else:
        following = beta2 * v + (1 - beta2) * d**2
    return following


@pytest.mark.parametrize("defaults", [True, False])
@pytest.mark.parametrize("name", ["fedadagrad", "fedadam", "fedyogi"])
def test_it_is_algorithm_2_over_rounds(name: str, *, defaults: bool) -> None:
    eta, beta1, beta2, tau = (0.1, 0.0 if name == "fedadagrad" else 0.9, 0.99, 1e-3)
    options: dict[str, float] = {}
    if not defaults:  # those of the Fed-Heart-Disease benchmark
        eta, beta1, beta2, tau = 0.01, 0.5, 0.999, 1e-8
        options = {"server_learning_rate": eta, "beta1": beta1, "tau": tau}
        options |= {"beta2": beta2} if name != "fedadagrad" else {}
    strategy, found = made(name, options), start()
    x, m, v = found.astype(np.float64), np.zeros(found.size), np.full(found.size, tau**2)
    for updates in rounds():
        d = shares(updates) @ matrix(updates)
        m = beta1 * m + (1 - beta1) * d
        v = paper(name, v, d, beta2)
        x = x + eta * m / (np.sqrt(v) + tau)
        found = stepped(strategy, found, updates)
        assert np.allclose(found, x, atol=2e-5)


@pytest.mark.parametrize("option", [{"tau": 0.0}, {"beta1": 1.0}, {"server_learning_rate": 0.0}, {"beta2": -0.1}])
def test_options_that_divide_by_nothing_or_never_forget_are_refused(option: dict[str, float]) -> None:
    (name,) = option
    with pytest.raises(PlanError, match=rf"aggregation\.{name}"):
        made("fedadam", option)


def test_adagrad_has_no_second_beta() -> None:
    with pytest.raises(PlanError, match=r"aggregation\.beta2: unknown key"):
        made("fedadagrad", {"beta2": 0.9})
