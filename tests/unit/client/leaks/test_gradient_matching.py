from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from hansa_client.leaks.gradient_matching import Effort, invert, read_labels
from hansa_client.leaks.observation import observed
from hansa_client.leaks.pipeline import changed_plan
from hansa_client.leaks.similarity import RECOVERED, match

IMAGES = {
    "kind": "image",
    "channels": 1,
    "height": 28,
    "width": 28,
    "classes": list("0123456789"),
}
CNN: dict[str, Any] = {
    "model": {"name": "cnn"},
    "simulation": {"data": {"adapter": "mnist5k"}},
}


def cnn_round(one_round: Callable[..., Any], batch: int) -> Any:
    training = {"optimizer": "sgd", "learning_rate": 0.1, "batch_size": 512, "steps": 1}
    return one_round(batch, **CNN, replaced={"training": training, "data": IMAGES})


@pytest.mark.parametrize("labels", [[3], [0, 9], [2, 2, 7], [5, 5, 5, 5]])
@pytest.mark.slow
def test_labels_are_read_off_the_last_bias(labels: list[int]) -> None:
    gradient = np.full(10, 0.1)
    for label in labels:
        gradient[label] -= 1 / len(labels)
    assert read_labels(gradient, len(labels)) == labels


@pytest.mark.slow
def test_a_few_iterations_come_closer(one_round: Callable[..., Any]) -> None:
    run = cnn_round(one_round, 1)
    shares: list[float] = []
    few, many = (
        invert(run.plan, run.parameters, run.updates[0].delta, batch=1, seed=1, effort=effort, tell=shares.append)
        for effort in (Effort(iterations=2), Effort(iterations=30))
    )
    assert many[1] < 0.7 * few[1]  # the gradient fits better ...
    ratios = [match(run.originals[0], images, 1.0)[1][0] for images, _ in (few, many)]
    assert ratios[1] > ratios[0] + 2  # ... and the image, which the attack never saw, too
    assert shares[-1] == 1.0
    again = invert(run.plan, run.parameters, run.updates[0].delta, batch=1, seed=1, effort=Effort(iterations=2))
    assert np.array_equal(again[0], few[0])


@pytest.mark.slow
def test_without_protection_images_are_recovered_from_the_shared_cnn(one_round: Callable[..., Any]) -> None:
    run = cnn_round(one_round, 1)
    ratios = [
        match(originals, invert(run.plan, run.parameters, update.delta, batch=1, seed=1)[0], 1.0)[1][0]
        for update, originals in zip(run.updates, run.originals, strict=True)
    ]
    assert sum(ratio > RECOVERED for ratio in ratios) >= 2, ratios


@pytest.mark.slow
def test_the_mean_over_four_sites_gives_no_image(one_round: Callable[..., Any]) -> None:
    run = cnn_round(one_round, 4)
    masked = {"weights": "equal", "secure_aggregation": {"coordinate_range": 1.0, "cohort": "fixed"}}
    (view,) = observed(changed_plan(run.plan, {"privacy": masked}), run.updates).views
    found, _ = invert(run.plan, run.parameters, view.delta, batch=16, seed=1)
    assert max(match(run.originals.reshape(16, -1), found, 1.0)[1]) < RECOVERED
