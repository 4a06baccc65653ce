"""Error feedback without a network or a model: what is sent and what is kept are what was trained."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.conftest import small_study

from hansa_client.feedback import MEMORY, do_with_memory
from hansa_client.site_state import Kept, State
from hansa_common.errors import ReleaseRefused, TaskRefused
from hansa_common.messages import Evaluated, Message, Update
from hansa_common.plan import StudyPlan, parse_plan
from hansa_common.positions import count_of
from hansa_common.transport import unpacked, update_message

Make = Callable[..., StudyPlan]
P = 700
TOPK = {"codec": "topk", "fraction": 0.1}
PLAN = parse_plan(small_study(transport=TOPK))


def update(delta: np.ndarray, plan: StudyPlan = PLAN) -> Message:
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
    return Message(header=header, vector=delta)


def trained(delta: np.ndarray, state: State, plan: StudyPlan = PLAN) -> tuple[np.ndarray, State]:
    """Return what the server reads of a round that trained ``delta``, and what stays."""
    reply, kept = do_with_memory(plan, state, lambda _rest: (update(delta, plan), Kept()))
    found = unpacked(plan, update_message(plan, reply, bound=None), size=delta.size).vector
    assert found is not None
    return found, kept.state


@settings(derandomize=True, max_examples=40)
@given(
    seed=st.integers(0, 2**32),
    scales=st.lists(st.floats(2.0**-10, 2.0**10), min_size=1, max_size=8),
    size=st.integers(1, P),
    fraction=st.sampled_from([1e-4, 0.01, 0.1, 0.5]),
    compress=st.sampled_from(["none", "zstd"]),
)
def test_what_was_sent_and_what_is_kept_add_up_to_what_was_trained(
    seed: int, scales: list[float], size: int, fraction: float, compress: str
) -> None:
    plan = parse_plan(small_study(transport={"codec": "topk", "fraction": fraction, "compress": compress}))
    rng = np.random.default_rng(seed)
    state: State = {}
    total = sent = np.zeros(size)
    largest = 0.0
    for scale in scales:
        delta = (rng.standard_normal(size) * scale).astype(np.float32)
        found, state = trained(delta, state, plan)
        assert np.count_nonzero(found) <= count_of(fraction, size)
        total, sent = total + delta, sent + found
        largest = max(largest, float(np.abs(delta).max()))
    # each round adds twice and rounds to float32 what is at most as large as all deltas together
    allowed = 2 * len(scales) * 2.0**-24 * largest * len(scales)
    np.testing.assert_allclose(sent + state[MEMORY], total, rtol=0, atol=allowed)


def test_a_value_that_is_too_small_each_time_arrives_in_the_end() -> None:
    delta = np.full(P, 1e-3, np.float32)
    delta[: P // 10] = 0.1
    state: State = {}
    arrived = np.zeros(P)
    for _ in range(130):
        found, state = trained(delta, state)
        arrived += found
    assert (arrived > 0).all()
    assert arrived[-1] + state[MEMORY][-1] == pytest.approx(0.13, rel=1e-3)


def test_what_quantisation_took_is_kept_too() -> None:
    delta = np.zeros(P, np.float32)
    delta[:3] = 1.0, 0.5001, 0.2503
    found, state = trained(delta, {})
    assert found[0] == 1.0
    assert np.abs(found[1:3] - delta[1:3]).min() > 0.0
    np.testing.assert_array_equal(found + state[MEMORY], delta)


def test_the_work_sees_its_own_state_only_and_the_memory_is_kept_beside_it() -> None:
    asked: list[State] = []
    own = np.ones(3, np.float32)

    def do(state: State) -> tuple[Message, Kept]:
        asked.append(state)
        return update(np.ones(P, np.float32)), Kept(state={"local": own})

    _reply, kept = do_with_memory(PLAN, {"local": own, MEMORY: np.ones(P, np.float32)}, do)
    assert [set(state) for state in asked] == [{"local"}]
    assert set(kept.state) == {"local", MEMORY}


def test_a_round_that_lacks_its_memory_is_refused_before_the_work() -> None:
    def do(_state: State) -> tuple[Message, Kept]:
        raise AssertionError

    with pytest.raises(TaskRefused, match="held back"):
        do_with_memory(PLAN, {"local": np.ones(3, np.float32)}, do)


def test_only_updates_have_a_memory(make_plan: Make) -> None:
    reply = Message(header=Evaluated(plan_digest=PLAN.digest(), site="a", seconds=1.0))
    state = {MEMORY: np.ones(P, np.float32)}
    assert do_with_memory(PLAN, state, lambda _rest: (reply, Kept())) == (reply, Kept())
    plain = make_plan()
    message = update(np.ones(P, np.float32), plain)
    assert do_with_memory(plain, {}, lambda _rest: (message, Kept())) == (message, Kept())


@pytest.mark.parametrize(
    "delta",
    [np.ones(P), np.ones((2, P // 2), np.float32), np.full(P, np.nan, np.float32)],
    ids=["float64", "a matrix", "not finite"],
)
def test_an_update_that_release_refuses_is_left_to_it(delta: np.ndarray) -> None:
    reply, kept = do_with_memory(PLAN, {MEMORY: np.ones(P, np.float32)}, lambda _rest: (update(delta), Kept()))
    assert reply.vector is delta
    assert not kept.state


@pytest.mark.parametrize("size", [1, P - 1, P + 1])
def test_an_update_of_another_size_than_its_memory_does_not_leave(size: int) -> None:
    delta = np.ones(size, np.float32)
    with pytest.raises(ReleaseRefused, match=f"{size} values; what was held back of the last, {P}"):
        do_with_memory(PLAN, {MEMORY: np.ones(P, np.float32)}, lambda _rest: (update(delta), Kept()))


def test_what_becomes_infinite_with_the_memory_does_not_leave() -> None:
    large = np.full(P, 3e38, np.float32)
    with np.errstate(over="ignore"), pytest.raises(ReleaseRefused):
        do_with_memory(PLAN, {MEMORY: large}, lambda _rest: (update(large), Kept()))
