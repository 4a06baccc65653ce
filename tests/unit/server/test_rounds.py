from dataclasses import replace
from itertools import permutations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hansa_common.errors import UpdateRefused
from hansa_common.messages import Evaluated, Message, Update
from hansa_common.metrics import ClassificationCounts
from hansa_common.parameters import Vector
from hansa_common.privacy_plan import DifferentialPrivacyPlan, PrivacyPlan
from hansa_common.training_plan import TrainingPlan
from hansa_server.rounds import Phase, Round, quorum_of
from hansa_server.strategies import next_parameters
from hansa_server.strategies.fedavg import FedAvg

P = 6
DIGEST = "cd" * 32
SITES = ("a", "b", "c", "d")


class Shelf:
    def __init__(self) -> None:
        self.deltas: dict[str, Vector] = {}

    def put(self, site: str, delta: Vector) -> None:
        self.deltas[site] = delta

    def get(self, site: str) -> Vector:
        return self.deltas[site]


def counts() -> ClassificationCounts:
    return ClassificationCounts.of(np.full((2, 2), 0.5, np.float32), np.array([0, 1]), np.ones(2), histograms=False)


def delta_of(site: str) -> Vector:
    return np.random.default_rng(ord(site[0])).normal(size=P).astype(np.float32) * 1000


def reply(
    sender: str, *, vector: Vector | None = None, names: tuple[str, ...] = ("validation",), **changes: Any
) -> Message:
    header: dict[str, Any] = {
        "plan_digest": DIGEST,
        "round": 2,
        "attempt": 1,
        "site": sender,
        "num_examples": 10 + ord(sender[0]),
        "train_loss": 1.0,
        "steps": 1,
        "seconds": 1.0,
        "train_seconds": 1.0,
    }
    vector = delta_of(sender) if vector is None else vector
    return Message(header=Update(**(header | changes)), vector=vector, counts={name: counts() for name in names})


def make(*, quorum: float = 0.5, shelf: Shelf | None = None, privacy: PrivacyPlan | None = None, **asked: Any) -> Round:
    return Round(
        plan_digest=DIGEST,
        number=2,
        attempt=1,
        cohort=SITES,
        quorum=quorum,
        deadline=100.0,
        parameters=P,
        examples={site: (10 + ord(site), 2) for site in SITES},
        held=shelf or Shelf(),
        privacy=privacy or PrivacyPlan(),
        **asked,
    )


def order_of(current: Round) -> list[str]:
    return [update.site for update in current.contributions()]


def mean_of(sites: list[str]) -> Vector:
    weights = np.array([10 + ord(site) for site in sites], dtype=np.float64)
    deltas = np.stack([delta_of(site).astype(np.float64) for site in sites])
    mean: Vector = ((weights[:, None] * deltas).sum(0) / weights.sum()).astype(np.float32)
    return mean


def test_every_order_of_arrival_gives_the_same_bits() -> None:
    results = set()
    for order in permutations(SITES):
        current = make()
        for site in order:
            current.receive(site, reply(site))
        assert current.tick(0.0) is Phase.COUNTS
        assert order_of(current) == list(SITES)
        (following,) = next_parameters(FedAvg(), np.zeros(P, np.float32), current.contributions())
        results.add(following.tobytes())
    assert len(results) == 1
    assert np.allclose(np.frombuffer(results.pop(), np.float32), mean_of(list(SITES)), rtol=1e-6)


@settings(max_examples=300, deadline=None)
@given(st.permutations(SITES), st.sets(st.sampled_from(SITES)), st.sets(st.sampled_from(SITES)), st.floats(0.01, 1.0))
def test_whatever_fails_the_rest_is_folded_in_order_or_the_round_is_void(
    order: list[str], failing: set[str], late: set[str], quorum: float
) -> None:
    current = make(quorum=quorum)
    for site in order:
        if site in failing:
            current.fail(site, "it failed")
        elif site not in late:
            current.receive(site, reply(site))
    before = current.tick(99.9)
    assert (before is Phase.OPEN) == bool(set(late) - failing)
    good = [site for site in SITES if site not in failing and site not in late]
    phase = current.tick(100.0)
    assert phase is (Phase.COUNTS if len(good) >= quorum_of(quorum, 4) else Phase.VOID)
    if phase is Phase.COUNTS:
        assert order_of(current) == good
    else:
        with pytest.raises(RuntimeError, match="does not count"):
            current.contributions()
    assert set(current.missing) == (failing | late)


def test_an_open_round_has_no_contributions() -> None:
    current = make()
    current.receive("a", reply("a"))
    with pytest.raises(RuntimeError, match="does not count"):
        current.contributions()


def test_a_refused_update_is_not_held() -> None:
    shelf = Shelf()
    with pytest.raises(UpdateRefused):
        make(shelf=shelf).receive("b", BAD["NaN"])
    assert not shelf.deltas


BAD: dict[str, Message] = {
    "NaN": reply("b", vector=np.full(P, np.nan, np.float32)),
    "infinity": reply("b", vector=np.array([0, 0, 0, 0, 0, np.inf], np.float32)),
    "a giant value": reply("b", vector=np.array([0, 0, 0, 3e38, 0, 0], np.float32)),
    "a giant negative value": reply("b", vector=np.array([0, -3e38, 0, 0, 0, 0], np.float32)),
    "too long": reply("b", vector=np.zeros(P + 1, np.float32)),
    "too short": reply("b", vector=np.zeros(0, np.float32)),
    "another round": reply("b", round=1),
    "another attempt": reply("b", attempt=2),
    "another plan": reply("b", plan_digest="0" * 64),
    "another site's name": reply("b", site="c"),
    "a giant weight": reply("b", num_examples=10**15),
    "no weight": reply("b", num_examples=0),
    "other counts": reply("b", names=("test",)),
    "more counts": reply("b", names=("validation", "test")),
    "another kind": Message(
        header=Evaluated(plan_digest=DIGEST, site="b", seconds=1.0), counts={"validation": counts()}
    ),
}


@pytest.mark.parametrize("message", BAD.values(), ids=BAD.keys())
def test_a_bad_update_is_refused_by_name_and_the_others_go_on(message: Message) -> None:
    current = make()
    current.receive("c", reply("c"))
    with pytest.raises(UpdateRefused) as caught:
        current.receive("b", message)
    assert caught.value.site == "b"
    assert current.missing["b"].startswith("b sent") or current.missing["b"].startswith("b ")
    for site in ("a", "d"):
        current.receive(site, reply(site))
    assert current.tick(0.0) is Phase.COUNTS
    assert order_of(current) == ["a", "c", "d"]


def test_a_second_reply_of_a_site_is_a_bug_of_the_caller() -> None:
    current = make()
    current.receive("a", reply("a"))
    with pytest.raises(RuntimeError):
        current.receive("a", reply("a"))
    with pytest.raises(RuntimeError):
        current.fail("a", "again")
    with pytest.raises(RuntimeError):
        current.receive("stranger", reply("a"))


def test_nothing_is_taken_in_after_the_deadline() -> None:
    current = make(quorum=0.25)
    current.receive("a", reply("a"))
    assert current.tick(100.0) is Phase.COUNTS
    with pytest.raises(RuntimeError):
        current.receive("b", reply("b"))
    assert current.missing["b"] == "It did not reply before the deadline."


@pytest.mark.parametrize(
    ("share", "sites", "needed"), [(1.0, 4, 4), (0.75, 4, 3), (0.7, 10, 7), (0.5, 3, 2), (0.01, 4, 1), (0.34, 3, 2)]
)
def test_the_quorum_is_rounded_up(share: float, sites: int, needed: int) -> None:
    assert quorum_of(share, sites) == needed


_LOSSES: dict[str, float | None] = {
    "NaN": float("nan"),
    "infinity": float("inf"),
    "negative": -1e-9,
    "a giant": 1e30,
    "none": None,
}


@pytest.mark.parametrize("loss", _LOSSES.values(), ids=_LOSSES.keys())
def test_a_loss_that_would_weigh_an_update_is_refused_by_name(loss: float | None) -> None:
    current = make(tells_loss=True)
    message = reply("b", incoming_loss=0.0)
    header = message.header.model_copy(update={"incoming_loss": loss})  # as if the header's own limits were not there
    with pytest.raises(UpdateRefused, match=r"^b .*loss") as caught:
        current.receive("b", replace(message, header=header))
    assert caught.value.site == "b"
    for site in ("a", "c", "d"):
        current.receive(site, reply(site, incoming_loss=0.5))
    assert current.tick(0.0) is Phase.COUNTS
    assert [update.loss for update in current.contributions()] == [0.5] * 3


def test_a_loss_that_nobody_asked_for_is_refused() -> None:
    with pytest.raises(UpdateRefused, match="nobody asked for"):
        make().receive("b", reply("b", incoming_loss=0.5))


def test_steps_that_weigh_an_update_are_those_of_the_plan() -> None:
    current = make(steps=TrainingPlan(epochs=3, batch_size=50).steps_of_round)
    current.receive("a", reply("a", steps=9))  # 107 examples, three batches
    with pytest.raises(UpdateRefused, match="b says it took 1 steps; the plan asks for 9"):
        current.receive("b", reply("b", steps=1))
    make().receive("b", reply("b", steps=1))


_CLIPPED = PrivacyPlan(clipping_bound=1.0)
_NOISE = {"kind": "site_server", "clipping_bound": 1.0, "noise_multiplier": 1.0, "epsilon": 9.0, "delta": 1e-5}
_NOISED = PrivacyPlan(weights="equal", differential=DifferentialPrivacyPlan(**_NOISE))  # type: ignore[arg-type]


def _unit_vector(factor: float) -> Vector:
    return np.full(P, factor / np.sqrt(P), np.float32)


def test_no_site_is_taken_at_its_word_that_it_clipped() -> None:
    current = make(privacy=_CLIPPED)
    current.receive("a", reply("a", vector=_unit_vector(0.999)))
    with pytest.raises(UpdateRefused, match=r"norm 1\.01"):
        current.receive("b", reply("b", vector=_unit_vector(1.01)))


def _untold(site: str, **changes: Any) -> Message:
    return reply(site, vector=_unit_vector(0.5), names=(), **({"num_examples": 0} | changes))


def test_with_noise_for_a_site_its_size_and_counts_are_neither_needed_nor_taken() -> None:
    current = Round(
        plan_digest=DIGEST,
        number=2,
        attempt=1,
        cohort=SITES,
        quorum=0.5,
        deadline=100.0,
        parameters=P,
        examples=dict.fromkeys(SITES, (0, 0)),
        held=Shelf(),
        privacy=_NOISED,
    )
    current.receive("a", _untold("a"))
    with pytest.raises(UpdateRefused, match="weighs its update"):
        current.receive("b", _untold("b", num_examples=5))
    with pytest.raises(UpdateRefused, match="other counts"):
        current.receive("c", reply("c", vector=_unit_vector(0.5), num_examples=0))
    current.receive("d", _untold("d"))
    assert current.tick(0.0) is Phase.COUNTS
    assert [update.num_examples for update in current.contributions()] == [1, 1]


def test_the_norm_of_an_update_is_kept_but_not_with_noise_that_the_server_adds_later() -> None:
    """Published, it would tell more of a site than was accounted for."""
    bare, noised = make(), make(privacy=_NOISED)
    bare.receive("a", reply("a", vector=_unit_vector(0.5)))
    noised._examples = dict.fromkeys(SITES, (0, 0))
    noised.receive("a", _untold("a"))
    assert bare.accepted["a"].norm == pytest.approx(0.5)
    assert noised.accepted["a"].norm is None


def test_what_is_no_change_of_the_model_has_no_norm_that_means_something() -> None:
    current = make(is_delta=False)
    current.receive("a", reply("a"))
    assert current.accepted["a"].norm is None
