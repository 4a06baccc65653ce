import numpy as np
import pytest
from tests.unit.server.strategies.played import made, matrix, rounds, shares, start, stepped

from hansa_common.errors import PlanError


def test_it_is_the_paper_s_momentum_over_rounds() -> None:
    """Oracle: section 4.3 of the paper with whole vectors: ``v <- beta v + dw``, ``w <- w - v``."""
    strategy, found = made("fedavgm", {"momentum": 0.8, "server_learning_rate": 0.5}), start()
    expected, velocity = found.astype(np.float64), np.zeros(found.size)
    for updates in rounds():
        velocity = 0.8 * velocity - shares(updates) @ matrix(updates)
        expected = expected - 0.5 * velocity
        found = stepped(strategy, found, updates)
        assert np.allclose(found, expected, atol=1e-5)


def test_without_momentum_it_is_federated_averaging() -> None:
    for updates in rounds(1):
        plain = stepped(made("fedavg"), start(), updates)
        assert stepped(made("fedavgm", {"momentum": 0.0}), start(), updates).tobytes() == plain.tobytes()


@pytest.mark.parametrize("momentum", [-0.1, 1.0])
def test_a_momentum_that_never_ends_is_refused(momentum: float) -> None:
    with pytest.raises(PlanError, match=r"aggregation\.momentum"):
        made("fedavgm", {"momentum": momentum})
