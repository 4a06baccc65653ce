from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from hansa_common.codecs import pack
from hansa_common.errors import MessageError, PlanError
from hansa_common.messages import EvaluateTask, Message, TrainTask, Update, decode, encode
from hansa_common.parameters import l2_norm
from hansa_common.plan import StudyPlan
from hansa_common.transport import received_model, train_task, unpacked, update_message

Make = Callable[..., StudyPlan]
P = 650
DELTA = np.random.default_rng(1).normal(size=P).astype(np.float32) * np.float32(0.01)


def update(plan: StudyPlan, *, site: str = "a", number: int = 1) -> Update:
    return Update(
        plan_digest=plan.digest(),
        round=number,
        attempt=1,
        site=site,
        num_examples=2,
        train_loss=0.5,
        steps=1,
        seconds=1.0,
        train_seconds=1.0,
    )


def test_a_plan_without_the_section_keeps_its_digest_and_its_bytes(make_plan: Make) -> None:
    plan = make_plan()
    assert plan.digest() == "e688b8dcc57c2ba55107d1801618c4fcc781209bbb717761ad5740f4c8af5943"
    message = Message(header=update(plan), vector=DELTA)
    assert update_message(plan, message, bound=None) is message
    task = train_task(plan, TrainTask(plan_digest=plan.digest(), round=1, attempt=1), DELTA)
    assert task.vector is DELTA
    assert unpacked(plan, task, size=P) is task
    assert received_model(plan, DELTA) is DELTA


def test_every_key_makes_another_plan(make_plan: Make) -> None:
    topk = {"codec": "topk"}
    changes: list[dict[str, Any]] = [{}, {"codec": "int4"}, {"codec": "int8"}, {"down": "bf16"}, {"compress": "zstd"}]
    changes += [topk, topk | {"fraction": 0.02}]
    assert len({make_plan(transport=change).digest() for change in changes}) == len(changes)


@pytest.mark.parametrize("codec", ["float32", "bf16", "int8", "int4"])
@pytest.mark.parametrize("compress", ["none", "zstd"])
def test_an_update_comes_back_through_the_wire(make_plan: Make, codec: str, compress: str) -> None:
    plan = make_plan(transport={"codec": codec, "compress": compress})
    leaves = update_message(plan, Message(header=update(plan), vector=DELTA), bound=None)
    envelope = encode(leaves)
    assert ("vector" in envelope.arrays) == ((codec, compress) == ("float32", "none"))
    found = unpacked(plan, decode(envelope), size=P).vector
    assert found is not None
    assert np.abs(found - DELTA).max() <= np.abs(DELTA).max() / 7
    again = update_message(plan, Message(header=update(plan), vector=DELTA), bound=None)
    assert again.packed == leaves.packed
    if codec in ("int8", "int4"):
        others = [
            update_message(plan, Message(header=header, vector=DELTA), bound=None).packed
            for header in (update(plan, site="b"), update(plan, number=2))
        ]
        assert len({leaves.packed, *others}) == 3


@pytest.mark.parametrize("down", ["float32", "bf16", "int8"])
def test_a_model_comes_to_every_site_as_the_server_knows(make_plan: Make, down: str) -> None:
    plan = make_plan(transport={"down": down, "compress": "zstd"})
    task = train_task(plan, TrainTask(plan_digest=plan.digest(), round=2, attempt=1), DELTA)
    found = unpacked(plan, decode(encode(task)), size=P).vector
    assert found is not None
    assert np.array_equal(found, received_model(plan, DELTA))
    assert np.abs(found - DELTA).max() <= np.abs(DELTA).max() / 127


@pytest.mark.parametrize("codec", ["bf16", "int8", "int4"])
def test_rounding_does_not_lengthen_an_update_beyond_its_bound(make_plan: Make, codec: str) -> None:
    bound = 0.1
    plan = make_plan(transport={"codec": codec}, privacy={"clipping_bound": bound})
    delta = (DELTA * (bound / l2_norm(DELTA))).astype(np.float32)
    bare = unpacked(plan, update_message(plan, Message(header=update(plan), vector=delta), bound=None), size=P).vector
    assert bare is not None
    if codec == "int4":
        assert l2_norm(bare) > bound
    held = unpacked(plan, update_message(plan, Message(header=update(plan), vector=delta), bound=bound), size=P).vector
    assert held is not None
    assert 0.98 * bound < l2_norm(held) <= bound


def test_a_vector_in_another_codec_than_the_plans_is_refused(make_plan: Make) -> None:
    plain, packed = make_plan(), make_plan(transport={"codec": "int8"})
    bare = Message(header=update(packed), vector=DELTA)
    with pytest.raises(MessageError, match="not in the codec"):
        unpacked(packed, bare, size=P)
    with pytest.raises(MessageError, match="not in the codec"):
        unpacked(plain, update_message(packed, bare, bound=None), size=P)
    wrong = Message(header=update(packed), packed=pack(DELTA, "int4", compress=False, seed=1))
    with pytest.raises(MessageError, match="bytes"):
        unpacked(packed, wrong, size=P)


def test_packed_values_come_only_where_a_codec_may_be(make_plan: Make) -> None:
    header = EvaluateTask(plan_digest=make_plan().digest())
    with pytest.raises(RuntimeError, match="wrong arrays"):
        encode(Message(header=header, packed=b"x"))
    honest = encode(Message(header=update(make_plan()), packed=b"x"))
    both = type(honest)(
        header=honest.header, arrays=dict(honest.arrays) | dict(encode(Message(header=header, vector=DELTA)).arrays)
    )
    with pytest.raises(MessageError, match="packed"):
        decode(both)


@pytest.mark.parametrize("codec", ["bf16", "int8", "int4", "topk"])
def test_a_codec_goes_with_neither_masks_nor_noise_of_the_sum(make_plan: Make, codec: str) -> None:
    masks = {"maximum_examples": 100, "secure_aggregation": {"coordinate_range": 4.0, "cohort": "changing"}}
    noise = {"clipping_bound": 1.0, "noise_multiplier": 1.0, "epsilon": 50.0, "delta": 1e-3}
    sites = {"weights": "equal", "differential": noise | {"kind": "site_server"}}
    for privacy, reason in ((masks, "masks would not cancel"), (sites, "after it was clipped")):
        make_plan(privacy=privacy)
        with pytest.raises(PlanError, match=reason):
            make_plan(privacy=privacy, transport={"codec": codec})
    for change in ({"down": "int8"}, {"compress": "zstd"}):
        with pytest.raises(PlanError, match="bit for bit"):
            make_plan(privacy=masks, transport=change)
    persons = {"weights": "equal", "differential": noise | {"kind": "example", "sampling_rate": 0.1}}
    steps = {"training": {"steps": 5, "batch_size": 8, "optimizer": "sgd"}}
    make_plan(privacy=persons, transport={"codec": codec}, replaced=steps)


def test_a_plan_with_another_codec_keeps_the_digest_it_had_before_there_was_a_fraction(make_plan: Make) -> None:
    assert (
        make_plan(transport={"codec": "int8"}).digest()
        == "8f20fa6e0b4418035a5ed0fc1f593742fff0c6a76d1ec5ad27d74560cb963e08"
    )


TOPK = {"codec": "topk"}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "down": ({"transport": {"down": "topk"}}, r"^transport\.down: 'topk' is for updates"),
    "a fraction of another codec": (
        {"transport": {"codec": "int8", "fraction": 0.1}},
        r"^transport\.fraction: .* codec is 'int8'",
    ),
    "nothing": ({"transport": TOPK | {"fraction": 0.0}}, r"^transport\.fraction"),
    "more than half": ({"transport": TOPK | {"fraction": 0.51}}, r"^transport\.fraction"),
    "clipping": ({"transport": TOPK, "privacy": {"clipping_bound": 1.0}}, r"keep what the bound cut off"),
    "control variates": (
        {"transport": TOPK, "aggregation": {"strategy": "scaffold"}},
        r"^transport: .*control variates",
    ),
    "a rule that compares": (
        {"transport": TOPK, "aggregation": {"strategy": "median"}},
        r"^transport: .*'median'.*sparse",
    ),
    "Newton's method": ({"transport": TOPK, "aggregation": {"strategy": "newton"}}, r"transport.codec"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_go_with_top_k_is_refused(make_plan: Make, name: str) -> None:
    sections, reason = REFUSED[name]
    with pytest.raises(PlanError, match=reason):
        make_plan(**sections)


@pytest.mark.parametrize(
    "sections",
    [
        {"aggregation": {"strategy": "fedadam"}},
        {"rounds": {"sites_per_round": 2}},
        {"personalisation": {"method": "ditto"}},
        {"transport": TOPK | {"down": "int8", "compress": "zstd"}},
    ],
)
def test_top_k_keeps_state_and_goes_with_what_adds_up(make_plan: Make, sections: dict[str, Any]) -> None:
    plan = make_plan(**({"transport": TOPK} | sections))
    assert plan.keeps_state
    assert plan.transport.sent_fraction == 0.01
    assert make_plan(transport=TOPK | {"fraction": 0.5}).transport.sent_fraction == 0.5
