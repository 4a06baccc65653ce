"""Top-k with error feedback, through the study and the sites' own session: against the papers, lost and killed.

The other half of ``test_site_algorithms``; killing a study of this kind is there.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from tests.integration.test_site_algorithms import FULL_BATCH, NAMES, SITES, Floats, InProcess, carried, initial, run

from hansa_client.session import SiteState, handle
from hansa_common.messages import EvaluateTask, Message, OpenTask, TrainTask, Update, decode, encode
from hansa_common.parameters import Vector
from hansa_common.plan import StudyPlan
from hansa_common.protection import kind_of
from hansa_server import cohort
from hansa_server.engines.engine import Machine
from hansa_server.progress import Quiet
from hansa_server.results import Results
from hansa_server.simulation import simulate
from hansa_server.store import RunFolder

Make = Callable[..., StudyPlan]
P, K = 650, 65
TOPK: dict[str, Any] = {"transport": {"codec": "topk", "fraction": K / P}}


class PlainSites:
    """The same sites in the same study without a codec: what they train from any model."""

    def __init__(self, plan: StudyPlan) -> None:
        self._plan = plan
        self._states = [SiteState(index=index) for index in range(SITES)]
        for state in self._states:
            handle(encode(Message(header=OpenTask(plan=plan.model_dump_json()))), state)

    def train(self, index: int, number: int, model: Floats) -> tuple[Vector, int]:
        header = TrainTask(plan_digest=self._plan.digest(), round=number, attempt=1)
        task = Message(header=header, vector=model.astype(np.float32))
        reply = decode(handle(encode(task), self._states[index]), kind=kind_of(self._plan))
        assert isinstance(reply.header, Update)
        assert reply.vector is not None
        return reply.vector, reply.header.num_examples


def top_k_in_int8(update: Vector) -> Vector:
    """Return ``C(update)``: the ``K`` largest values, in blocks of 256 on 255 levels."""
    chosen = sorted(sorted(range(P), key=lambda place: (-abs(float(update[place])), place))[:K])
    sent = np.zeros(P, np.float32)
    for start in range(0, K, 256):
        block = update[chosen[start : start + 256]]
        step = np.max(np.abs(block)) / np.float32(127.0)
        sent[chosen[start : start + 256]] = np.rint(block / step) * step
    return sent


def oracle(plan: StudyPlan, sites: PlainSites, lost: set[tuple[int, int]]) -> tuple[Floats, list[Vector], float]:
    """Algorithm 1 of Stich, Cordonnier and Jaggi around federated averaging, in the cohorts that the study draws.

    Returns:
        The model, the sites' memories, and the most by which a site's sent and kept values miss its deltas.
    """
    x, memory = initial(plan), [np.zeros(P, np.float32) for _ in range(SITES)]
    deltas, sent = np.zeros((SITES, P)), np.zeros((SITES, P))
    for number in range(1, plan.rounds.count + 1):
        chosen = cohort.choose(NAMES, size=plan.rounds.sites_per_round, seed=plan.seed, round_number=number)
        total, examples = np.zeros(P), 0
        for i in (NAMES.index(name) for name in chosen):
            delta, size = sites.train(i, number, x)
            if (number, i + 1) in lost:
                continue  # neither counted nor kept
            update = memory[i] + delta
            message = top_k_in_int8(update)
            memory[i] = update - message
            deltas[i] += delta
            sent[i] += message
            total, examples = total + size * message.astype(np.float64), examples + size
        x = (x + total / examples).astype(np.float32).astype(np.float64)
    return x, memory, float(np.abs(sent + np.array(memory) - deltas).max())


def memories(path: Path) -> list[Vector]:
    """Return what each site kept of the last round that counted."""
    found = []
    for node in range(1, SITES + 1):
        newest = max((path / "sites" / str(node)).glob("round-*.safetensors"))
        found.append(load_file(newest)["memory"])
    return found


def simulated(plan: StudyPlan, path: Path, machine: Machine) -> Results:
    folder = RunFolder.create(path)
    folder.save_plan(plan)
    try:
        return simulate(plan, folder, machine=machine, observer=Quiet())
    finally:
        folder.close()


def test_it_is_algorithm_1_around_federated_averaging_with_absent_sites_and_lost_updates(
    tmp_path: Path, make_plan: Make
) -> None:
    sections: dict[str, Any] = {
        "replaced": {"training": FULL_BATCH},
        "rounds": {"count": 6, "sites_per_round": 3, "quorum": 0.5},
    }
    plan, exchange = make_plan(**sections, transport=TOPK["transport"] | {"compress": "zstd"}), InProcess()
    first = cohort.choose(NAMES, size=3, seed=plan.seed, round_number=2)[0]
    exchange.refused = {(2, NAMES.index(first) + 1)}
    run(plan, tmp_path / "run", exchange)
    x, memory, missed = oracle(plan, PlainSites(make_plan(**sections)), exchange.refused)
    assert missed < 1e-6
    np.testing.assert_allclose(carried(tmp_path / "run"), x, rtol=0, atol=1e-6)
    for found, expected in zip(memories(tmp_path / "run"), memory, strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
        assert np.count_nonzero(found) > P / 2
    assert exchange.sizes.get("update") is None  # packed, all of them
    lost, node = next(iter(exchange.refused))
    bases = [basis for number, asked, basis in exchange.bases if asked == node and number > lost]
    assert bases
    assert lost not in bases


def test_a_second_attempt_of_a_round_starts_from_the_same_memory(tmp_path: Path, make_plan: Make) -> None:
    plan = make_plan(**TOPK, replaced={"training": FULL_BATCH})
    state = SiteState(index=0)
    handle(encode(Message(header=OpenTask(plan=plan.model_dump_json(), folder=str(tmp_path)))), state)
    model = initial(plan).astype(np.float32)

    def ask(number: int, attempt: int, basis: int) -> bytes:
        header = TrainTask(plan_digest=plan.digest(), round=number, attempt=attempt, basis=basis)
        return decode(handle(encode(Message(header=header, vector=model)), state), kind=kind_of(plan)).packed

    first = ask(1, 1, 0)
    assert ask(1, 2, 0) == first
    second = ask(2, 1, 1)
    assert second != first
    assert ask(2, 2, 1) == second
    third = ask(3, 1, 2)
    assert ask(3, 2, 2) == third != second


def test_a_site_that_took_no_part_evaluates_the_model_all_the_same(make_plan: Make) -> None:
    plan, state = make_plan(**TOPK), SiteState(index=0)
    handle(encode(Message(header=OpenTask(plan=plan.model_dump_json()))), state)  # names no folder for state
    task = Message(header=EvaluateTask(plan_digest=plan.digest()), vector=initial(plan).astype(np.float32))
    assert set(decode(handle(encode(task), state), kind=kind_of(plan)).counts) == {"validation", "test"}


def test_what_leaves_is_small_and_counted(tmp_path: Path, make_plan: Make) -> None:
    """A scale, a byte for each of the 65 values, and 3.0 + 1 + 1.1 bits for where it is: 110 bytes and not 2,600."""
    sections = {"replaced": {"training": FULL_BATCH}}
    sparse = simulated(make_plan(**TOPK, **sections), tmp_path / "sparse", Machine(engine="inline"))
    whole = simulated(make_plan(**sections), tmp_path / "whole", Machine(engine="inline"))
    for one, other in zip(sparse.rounds, whole.rounds, strict=True):
        assert 2_480 < (other.bytes_up - one.bytes_up) / SITES < 2_500
    assert sparse.final is not None
    assert sparse.final.weighted_mean is not None
    assert (sparse.final.weighted_mean.accuracy or 0.0) > 0.5


@pytest.mark.slow
def test_both_ways_of_running_it_give_the_same_bits(tmp_path: Path, make_plan: Make) -> None:
    plan = make_plan(**TOPK, rounds={"count": 4, "sites_per_round": 3})
    inline = simulated(plan, tmp_path / "inline", Machine(engine="inline"))
    local = simulated(plan, tmp_path / "local", Machine(engine="local", workers=2))
    assert inline.model_sha256 == local.model_sha256
    for one, other in zip(memories(tmp_path / "inline"), memories(tmp_path / "local"), strict=True):
        assert one.tobytes() == other.tobytes()
