"""The attack suite does what its papers say, and the rule to begin with withstands what hostile sites train on."""

from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from tests.attacks import TRIGGER, UPDATE_ATTACKS, add_trigger, backdoor, flip_labels, min_max
from tests.unit.server.strategies.played import Options, made, stepped

from hansa_server.strategies import Contribution

CLASSES, SIDE, SITES, HOSTILE, TARGET = 3, 8, 10, 2, 0
Images = npt.NDArray[np.float32]
Labels = npt.NDArray[Any]


def honest_and_own() -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    drawn = np.random.default_rng(3).normal(1.0, 0.5, size=(20, 50))
    return drawn[4:], drawn[:4]


@pytest.mark.parametrize("name", UPDATE_ATTACKS)
def test_an_attack_sends_one_update_for_each_hostile_site(name: str) -> None:
    honest, own = honest_and_own()
    sent = UPDATE_ATTACKS[name](honest, own, np.random.default_rng(0))
    assert sent.shape == own.shape
    assert np.isfinite(sent).all()


def test_alie_stays_within_what_honest_sites_send() -> None:
    """Of 20 sites 4 are hostile: 7 honest ones must lie further out, so ``Phi(z) = 9 / 16``."""
    honest, own = honest_and_own()
    sent = UPDATE_ATTACKS["ALIE"](honest, own, np.random.default_rng(0))
    z = (honest.mean(axis=0) - sent[0]) / honest.std(axis=0)
    assert np.allclose(z, NormalDist().inv_cdf(9 / 16))


def test_min_max_is_as_far_off_as_honest_updates_are_from_each_other() -> None:
    honest, own = honest_and_own()
    widest = max(float(np.linalg.norm(a - b)) for a in honest for b in honest)
    furthest = float(np.linalg.norm(honest - min_max(honest, own, np.random.default_rng(0))[0], axis=1).max())
    assert furthest == pytest.approx(widest)


def test_a_trigger_is_a_white_corner_and_a_backdoor_changes_its_share_only() -> None:
    images, labels = np.zeros((4, SIDE, SIDE), np.float32), np.array([1, 2, 1, 2])
    assert add_trigger(images).sum() == 4 * TRIGGER**2
    shown, wrong = backdoor(images, labels, target=TARGET)
    assert shown.sum(axis=(1, 2)).tolist() == [9.0, 9.0, 0.0, 0.0]
    assert wrong.tolist() == [0, 0, 1, 2]
    assert images.sum() == 0.0
    assert flip_labels(labels, CLASSES).tolist() == [1, 0, 1, 0]


def drawn(count: int, rng: np.random.Generator) -> tuple[Images, Labels]:
    """Noisy pictures of one of three patterns."""
    patterns = np.random.default_rng(1).uniform(0.0, 0.6, size=(CLASSES, SIDE, SIDE))
    labels = rng.integers(0, CLASSES, size=count)
    return (patterns[labels] + rng.normal(0.0, 0.15, size=(count, SIDE, SIDE))).astype(np.float32), labels


def trained(parameters: Images, images: Images, labels: Labels) -> Images:
    """Return the delta of five steps of softmax regression."""
    weights = parameters.reshape(CLASSES, -1).astype(np.float64)
    flat = images.reshape(len(images), -1)
    for _ in range(5):
        scores = flat @ weights.T
        shares = np.exp(scores - scores.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        weights -= 0.2 * (shares - np.eye(CLASSES)[labels]).T @ flat / len(flat)
    return (weights.reshape(-1) - parameters).astype(np.float32)


def study(name: str, options: Options, attack: str) -> tuple[float, float]:
    """Return the accuracy after 12 rounds, and the share of triggered pictures that are taken for the target."""
    strategy, rng = made(name, options), np.random.default_rng(2)
    parameters = np.zeros(CLASSES * SIDE * SIDE, np.float32)
    for _ in range(12):
        updates = []
        for site in range(SITES):
            images, labels = drawn(64, rng)
            if site < HOSTILE and attack == "label flip":
                labels = flip_labels(labels, CLASSES)
            if site < HOSTILE and attack == "backdoor":
                images, labels = backdoor(images, labels, target=TARGET, share=0.7)
            delta = trained(parameters, images, labels) * np.float32(4.0 if site < HOSTILE else 1.0)
            updates.append(Contribution(site=f"site-{site}", delta=delta, num_examples=64, steps=5))
        parameters = stepped(strategy, parameters, updates)
    images, labels = drawn(400, rng)
    weights = parameters.reshape(CLASSES, -1)
    marked = add_trigger(images[labels != TARGET]).reshape(-1, SIDE * SIDE)
    right = (images.reshape(400, -1) @ weights.T).argmax(axis=1) == labels
    return float(right.mean()), float(((marked @ weights.T).argmax(axis=1) == TARGET).mean())


def test_what_hostile_sites_train_on_moves_the_mean_and_not_the_rule_to_begin_with() -> None:
    rule: Options = {"hostile": HOSTILE, "nnm": True}
    clean, _ = study("fedavg", {}, "none")
    _, through = study("fedavg", {}, "backdoor")
    flipped, _ = study("fedavg", {}, "label flip")
    assert through > 0.8
    assert flipped < clean - 0.1
    for attack in ("backdoor", "label flip"):
        accuracy, success = study("trimmed_mean", rule, attack)
        assert accuracy > clean - 0.03
        assert success < 0.1
