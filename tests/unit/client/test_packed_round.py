"""A round in a codec, through the site's own session: what comes in packed is trained from, what leaves is packed."""

from collections.abc import Callable

import numpy as np
import pytest

from hansa_client.session import SiteState, handle
from hansa_client.site_data import simulated_site
from hansa_client.work import Work
from hansa_common.messages import InitialTask, Message, OpenTask, Refusal, TrainTask, Update, decode, encode
from hansa_common.plan import StudyPlan
from hansa_common.protection import kind_of
from hansa_common.transport import received_model, train_task, unpacked

Make = Callable[..., StudyPlan]
P = 650


def answer(plan: StudyPlan, task: Message) -> Message:
    state = SiteState(index=0)
    handle(encode(Message(header=OpenTask(plan=plan.model_dump_json()))), state)
    return decode(handle(encode(task), state), kind=kind_of(plan))


def asked(plan: StudyPlan, parameters: np.ndarray, number: int = 1) -> Message:
    return train_task(plan, TrainTask(plan_digest=plan.digest(), round=number, attempt=1), parameters)


@pytest.mark.parametrize(("codec", "most"), [("bf16", 2**-8), ("int8", 1 / 127), ("int4", 1 / 7)])
def test_the_update_is_that_of_the_open_study_but_for_rounding(make_plan: Make, codec: str, most: float) -> None:
    start = np.zeros(P, np.float32)
    plain = answer(make_plan(), asked(make_plan(), start)).vector
    plan = make_plan(transport={"codec": codec, "down": "bf16", "compress": "zstd"})
    reply = answer(plan, asked(plan, start))
    assert isinstance(reply.header, Update)
    assert reply.vector is None
    found = unpacked(plan, reply, size=P).vector
    assert found is not None
    assert plain is not None
    assert 0 < np.abs(found - plain).max() <= np.abs(plain).max() * most * 1.001


@pytest.mark.parametrize("down", ["int8", "int4"])
def test_a_site_trains_from_what_it_was_sent(make_plan: Make, down: str) -> None:
    plan = make_plan(transport={"down": down})
    model = np.random.default_rng(0).normal(size=P).astype(np.float32)
    seen = unpacked(plan, asked(plan, model, 2), size=P).vector
    assert seen is not None
    one, other = (answer(plan, asked(plan, start, 2)).vector for start in (model, seen))
    assert one is not None
    assert other is not None
    assert np.array_equal(one, other)


@pytest.mark.parametrize("down", ["int8", "int4"])
def test_a_first_round_from_other_parameters_is_refused_through_a_codec_too(make_plan: Make, down: str) -> None:
    images = {"kind": "image", "channels": 1, "height": 28, "width": 28, "classes": list("0123456789")}
    plan = make_plan(
        replaced={"data": images, "model": {"name": "mlp", "hidden": [4]}},
        simulation={"data": {"adapter": "mnist5k"}},
        transport={"down": down},
    )
    reply = answer(plan, asked(plan, np.ones(3190, np.float32)))
    assert isinstance(reply.header, Refusal)
    assert "initial parameters" in reply.header.reason


def test_a_start_that_is_a_level_away_is_refused_however_coarse_the_levels_are(make_plan: Make) -> None:
    """One value of the plan's initial model, moved by one of seven levels."""
    plan = make_plan(replaced={"model": {"name": "logistic", "initial": "uniform"}}, transport={"down": "int4"})
    initial = answer(plan, Message(header=InitialTask(plan_digest=plan.digest())))
    assert initial.vector is not None
    moved = initial.vector.copy()
    place = int(np.abs(moved[:256]).argmin())
    moved[place] += np.abs(moved[:256]).max() / 7
    assert isinstance(answer(plan, asked(plan, initial.vector)).header, Update)
    assert isinstance(answer(plan, asked(plan, moved)).header, Refusal)


@pytest.mark.parametrize("down", ["float32", "bf16", "int8", "int4"])
def test_a_start_from_a_machine_that_rounds_otherwise_is_one_in_each_codec(make_plan: Make, down: str) -> None:
    """Scales of blocks move with their largest values, and values near the middle of two levels to the other one."""
    plan = make_plan(replaced={"model": {"name": "logistic", "initial": "uniform"}}, transport={"down": down})
    initial = answer(plan, Message(header=InitialTask(plan_digest=plan.digest()))).vector
    assert initial is not None
    work, rng = Work(plan, simulated_site(plan, 0), "cpu"), np.random.default_rng(5)
    for most in (1e-7, 1e-6, 9e-6):
        for _ in range(20):
            other = (initial + rng.uniform(-most, most, P)).astype(np.float32)
            assert work._is_start(received_model(plan, other))
    assert not work._is_start(received_model(plan, (initial * 1.01).astype(np.float32)))
    assert not work._is_start(np.full(P, np.nan, np.float32))


@pytest.mark.parametrize("packed", [b"x", bytes(2 * P - 1), b"\xff" * (2 * P)])
def test_a_task_that_is_none_of_the_codec_is_refused(make_plan: Make, packed: bytes) -> None:
    plan = make_plan(transport={"down": "bf16"})
    task = Message(header=TrainTask(plan_digest=plan.digest(), round=1, attempt=1), packed=packed)
    reply = answer(plan, task)
    assert isinstance(reply.header, Refusal)
    assert reply.header.code == "message"
