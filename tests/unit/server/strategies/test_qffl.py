from dataclasses import replace

import numpy as np
import pytest
from tests.unit.server.strategies.played import SGD, made, matrix, rounds, start, stepped


@pytest.mark.parametrize("q", [0.001, 1.0, 5.0])
def test_it_is_algorithm_2_of_the_paper_over_rounds(q: float) -> None:
    strategy, found = made("qffl", {"q": q}, training=SGD.model_copy(update={"learning_rate": 0.2})), start()
    bound = 1 / 0.2
    w = found.astype(np.float64)
    for updates in rounds():
        n = np.array([update.num_examples for update in updates], np.float64)
        f = np.array([update.loss for update in updates], np.float64)
        dw = bound * -matrix(updates)  # L * (w - w_k)
        delta = f[:, None] ** q * dw
        h = q * f ** (q - 1) * np.linalg.norm(dw, axis=1) ** 2 + bound * f**q
        w = w - (n @ delta) / (n @ h)
        found = stepped(strategy, found, updates)
        assert np.allclose(found, w, atol=1e-5)


def test_q_of_0_is_federated_averaging() -> None:
    (updates,) = rounds(1)
    assert np.allclose(
        stepped(made("qffl", {"q": 0.0}), start(), updates), stepped(made("fedavg"), start(), updates), atol=1e-6
    )


def test_the_site_that_is_worst_off_pulls_most() -> None:
    (first, second, *_), *_ = rounds(1, size=1)
    worst = replace(first, delta=np.ones(1, np.float32), num_examples=5, loss=2.0)
    best = replace(second, delta=-np.ones(1, np.float32), num_examples=5, loss=0.5)
    assert stepped(made("qffl", {"q": 2.0}), np.zeros(1, np.float32), [worst, best])[0] > 0


@pytest.mark.parametrize("losses", [(0.0, 1.0), (0.0, 0.0), (1e9, 1e-9), (1e9, 1e9)])
def test_losses_at_the_ends_of_what_is_let_in_give_a_finite_step(losses: tuple[float, float]) -> None:
    (first, second, *_), *_ = rounds(1, size=3)
    for q in (0.1, 1.0, 5.0, 100.0):
        updates = [replace(one, loss=loss) for one, loss in zip((first, second), losses, strict=True)]
        assert np.isfinite(stepped(made("qffl", {"q": q}), np.zeros(3, np.float32), updates)).all()
