"""What is said before a study about its bytes is what its messages have then."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from hansa_common.messages import Message, TrainTask, Update, encode
from hansa_common.plan import StudyPlan
from hansa_common.protection import encode_update, terms_of
from hansa_common.traffic import RoundTraffic, round_traffic
from hansa_common.transport import train_task, update_message

Make = Callable[..., StudyPlan]
P = 65_000


def values(size: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=size).astype(np.float32)


def measured(plan: StudyPlan) -> tuple[int, int]:
    """Return the bytes of the vectors of one site's messages, up and down."""
    header = Update(
        plan_digest=plan.digest(),
        round=1,
        attempt=1,
        site="a",
        num_examples=2,
        train_loss=0.5,
        steps=1,
        seconds=1.0,
        train_seconds=1.0,
    )
    up = encode(update_message(plan, Message(header=header, vector=values(plan.update_size(P))), bound=None))
    task = TrainTask(plan_digest=plan.digest(), round=1, attempt=1)
    down = encode(train_task(plan, task, values(plan.carried * P)))
    return up.num_bytes - len(up.header), down.num_bytes - len(down.header)


@pytest.mark.parametrize(
    ("sections", "up", "down"),
    [
        ({}, 4 * P, 4 * P),
        ({"aggregation": {"strategy": "scaffold"}}, 8 * P, 8 * P),
        ({"aggregation": {"strategy": "scaffold"}, "transport": {"codec": "bf16", "down": "bf16"}}, 4 * P, 4 * P),
        ({"transport": {"codec": "int8", "down": "int8"}}, P + 4 * 254, P + 4 * 254),
        ({"transport": {"codec": "int4"}}, P // 2 + 4 * 254, 4 * P),
    ],
)
def test_the_forecast_is_what_the_messages_have(make_plan: Make, sections: dict[str, Any], up: int, down: int) -> None:
    plan = make_plan(**sections)
    found = round_traffic(plan, P)
    assert (found.up, found.down) == (up, down) == measured(plan)
    assert not found.is_compressed


@pytest.mark.parametrize("fraction", [0.001, 0.01, 0.1, 0.5])
def test_of_top_k_it_is_the_most_and_close(make_plan: Make, fraction: float) -> None:
    plan = make_plan(transport={"codec": "topk", "fraction": fraction})
    found, (up, down) = round_traffic(plan, P), measured(plan)
    assert 0.95 * found.up < up <= found.up
    assert found.down == down == 4 * P


def test_under_masks_it_is_the_ring(make_plan: Make) -> None:
    masks = {"coordinate_range": 4.0, "cohort": "changing", "ring_bits": 16}
    plan = make_plan(privacy={"maximum_examples": 100, "secure_aggregation": masks})
    words = encode_update(plan, terms_of(plan, ["a", "b", "c"]), values(P), 10)
    assert round_traffic(plan, P).up == words.nbytes == 2 * P


def test_curvature_is_counted_as_it_is_sent(make_plan: Make) -> None:
    plan = make_plan(aggregation={"strategy": "newton"})
    assert round_traffic(plan, 650).up == 4 * plan.update_size(650)
    assert round_traffic(plan, 650).down == 4 * 650


def test_it_is_said_in_units() -> None:
    found = RoundTraffic(up=2_030, down=636_040, is_compressed=False)
    assert str(found) == "a site receives 636 kB and sends 2.03 kB in a round"
    large = RoundTraffic(up=999, down=2_500_000_000, is_compressed=True)
    assert str(large) == "a site receives 2.5 GB and sends 999 B in a round, before Zstandard"
