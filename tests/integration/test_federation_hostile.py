"""Hostile sites: each attack is refused and named, the honest site's rounds go on, and its model is the one it is."""

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
from tests.chaos.federation import Federation
from tests.chaos.peer import Peer

from hansa_common.errors import HansaError
from hansa_common.messages import Envelope, Message, Opened, OpenTask, RawArray, TrainTask, Update, decode, encode
from hansa_common.metrics import ClassificationCounts
from hansa_common.plan import StudyPlan, dump_plan
from hansa_common.wire.codec import Kind, Parcel, parse
from hansa_server.results import Results

Make = Callable[..., Federation]
TRAIN, VALIDATION, TEST, CLASSES = 70, 10, 20, 10

Change = Callable[[dict[str, Any], dict[str, RawArray]], None]


def header(**values: Any) -> Change:
    return lambda head, _arrays: head.update(values)


def vector(make: Callable[[int], np.ndarray]) -> Change:
    def change(_head: dict[str, Any], arrays: dict[str, RawArray]) -> None:
        values = make(arrays["vector"].shape[0])
        dtype = {"float32": "<f4", "int64": "<i8", "uint8": "|u1"}[str(values.dtype)]
        arrays["vector"] = RawArray(dtype=dtype, shape=values.shape, data=values.tobytes())

    return change


def poisoned(size: int, value: float) -> np.ndarray:
    values = np.zeros(size, np.float32)
    values[size // 2] = value
    return values


def drop(name: str) -> Change:
    def change(_head: dict[str, Any], arrays: dict[str, RawArray]) -> None:
        del arrays[next(key for key in arrays if name in key)]

    return change


def add(name: str, array: RawArray) -> Change:
    return lambda _head, arrays: arrays.update({name: array})


def counts(change: Callable[[np.ndarray], np.ndarray]) -> Change:
    def apply(_head: dict[str, Any], arrays: dict[str, RawArray]) -> None:
        for key in [key for key in arrays if key.startswith("counts/")]:
            values = change(np.frombuffer(arrays[key].data, "<i8").reshape(arrays[key].shape))
            arrays[key] = RawArray(dtype="<i8", shape=values.shape, data=values.astype("<i8").tobytes())

    return apply


def keep_only(arrays: dict[str, RawArray], name: str) -> None:
    for key in [key for key in arrays if key != name]:
        del arrays[key]


BYTES = RawArray(dtype="|u1", shape=(3,), data=b"abc")
FLOATS = RawArray(dtype="<f4", shape=(2,), data=b"\0" * 8)
ATTACKS: dict[str, Change] = {
    "NaN": vector(lambda size: poisoned(size, np.nan)),
    "infinity": vector(lambda size: poisoned(size, np.inf)),
    "minus infinity": vector(lambda size: poisoned(size, -np.inf)),
    "all NaN": vector(lambda size: np.full(size, np.nan, np.float32)),
    "a giant value": vector(lambda size: poisoned(size, 3e38)),
    "all giants": vector(lambda size: np.full(size, -3e38, np.float32)),
    "one value short": vector(lambda size: np.zeros(size - 1, np.float32)),
    "one value more": vector(lambda size: np.zeros(size + 1, np.float32)),
    "no values": vector(lambda _size: np.zeros(0, np.float32)),
    "one value": vector(lambda _size: np.zeros(1, np.float32)),
    "ten times as many": vector(lambda size: np.zeros(10 * size, np.float32)),
    "integers": vector(lambda size: np.zeros(size, np.int64)),
    "bytes": vector(lambda size: np.zeros(size, np.uint8)),
    "two dimensions": vector(lambda size: np.zeros((size, 1), np.float32)),
    "no vector": drop("vector"),
    "no counts": lambda _head, arrays: keep_only(arrays, "vector"),
    "a part of the counts": drop("counts/"),
    "an array beside": add("extra", FLOATS),
    "a byte array beside": add("extra", BYTES),
    "counts of another name": add("counts/test/confusion", FLOATS),
    "counts of nobody": counts(lambda values: values * 0),
    "twice the counts": counts(lambda values: values * 2),
    "negative counts": counts(lambda values: -values),
    "huge counts": counts(lambda values: values + (1 << 62)),
    "no examples": header(num_examples=0),
    "one example more": header(num_examples=TRAIN + 1),
    "a quadrillion examples": header(num_examples=10**15),
    "negative examples": header(num_examples=-5),
    "fractional examples": header(num_examples=1.5),
    "examples as text": header(num_examples="70"),
    "another site's name": header(site="honest"),
    "nobody's name": header(site=""),
    "the next round": header(round=99),
    "round zero": header(round=0),
    "another attempt": header(attempt=7),
    "another plan": header(plan_digest="0" * 64),
    "infinite loss": header(train_loss=1e308),
    "negative loss": header(train_loss=-1.0),
    "another protocol": header(protocol=2),
    "an unknown key": header(surprise=True),
    "another kind": header(kind="evaluated"),
    "a kind that is none": header(kind="pickle"),
    "a task instead of a reply": header(kind="train"),
}
WHOLE: dict[str, Callable[[bytes], bytes]] = {
    "no parcel": lambda _content: b"\x80\x04\x95" + b"pickle" * 20,
    "cut off": lambda content: content[:-7],
    "bytes behind the end": lambda content: content + b"\0",
    "a header bomb": lambda content: content[:5] + b"\xff\xff\xff\xff" + content[9:],
    "a table bomb": lambda content: content[:9] + b"\xff\xff\xff\xff" + content[13:],
    "nothing but a head": lambda content: content[:13],
    "another app's kind": lambda content: content[:4] + b"\x02" + content[5:],
    "an unknown kind": lambda content: content[:4] + b"\x09" + content[5:],
}


class HostileSite:
    """Plays one attack a round.

    Args:
        folder: Of the site whose identity it has.
    """

    def __init__(self, folder: Path) -> None:
        self.played: list[str] = []
        self._peer = Peer(folder)
        self._attacks = [*ATTACKS, *WHOLE]
        self._plan = ""
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._notices = self._peer.attach()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._peer.__exit__()
        self._thread.join()

    def _run(self) -> None:
        try:
            while True:
                task = self._peer.task(self._notices)
                self._peer.upload(task.task, self._answer(parse(self._peer.download(task.task)).envelope))
        except (HansaError, ValueError, StopIteration):
            return

    def _answer(self, envelope: Envelope) -> bytes:
        task = decode(envelope)
        site = self._peer.membership.site
        if isinstance(task.header, OpenTask):
            from hansa_common.plan import plan_from_json

            self._plan = plan_from_json(task.header.plan).digest()
            opened = Opened(
                plan_digest=self._plan,
                site=site,
                train=TRAIN,
                validation=VALIDATION,
                test=TEST,
                class_counts=(10,) * CLASSES,
                origin="",
                version="",
                device="",
            )
            return packed(encode(Message(header=opened)))
        if not isinstance(task.header, TrainTask) or task.vector is None:
            return b"nothing"
        update = Update(
            plan_digest=self._plan,
            round=task.header.round,
            attempt=1,
            site=site,
            num_examples=TRAIN,
            train_loss=1.0,
            steps=1,
            seconds=0.0,
            train_seconds=0.0,
        )
        labels = np.arange(VALIDATION) % CLASSES
        right = ClassificationCounts.of(np.eye(CLASSES, dtype=np.float32), labels, np.zeros(CLASSES), histograms=False)
        honest = encode(Message(header=update, vector=np.zeros_like(task.vector), counts={"validation": right}))
        return self._attack(honest, task.header.round)

    def _attack(self, honest: Envelope, number: int) -> bytes:
        if number > len(self._attacks):
            return packed(honest)
        name = self._attacks[number - 1]
        self.played.append(name)
        if name in WHOLE:
            return WHOLE[name](packed(honest))
        head, arrays = json.loads(honest.header), dict(honest.arrays)
        ATTACKS[name](head, arrays)
        return packed(Envelope(header=json.dumps(head).encode(), arrays=arrays))


def packed(envelope: Envelope) -> bytes:
    return b"".join(Parcel(kind=Kind.HANSA, envelope=envelope).pieces())


def results(federation: Federation, study: str) -> Results:
    return Results.model_validate_json((federation.run_folder(study) / "metrics.json").read_bytes())


@pytest.fixture
def study(tmp_path: Path, make_plan: Callable[..., StudyPlan]) -> Path:
    rounds = {"count": len(ATTACKS) + len(WHOLE) + 1, "quorum": 0.5, "deadline_seconds": 30.0}
    path = tmp_path / "small.toml"
    path.write_text(dump_plan(make_plan(rounds=rounds, replaced={"simulation": None})))
    return path


def test_every_hostile_update_is_refused_by_name_and_the_honest_rounds_finish(
    make_federation: Make, study: Path
) -> None:
    federation = make_federation(("honest", "hostile"))
    honest, hostile = federation.sites.values()
    hostile.agent.stop()
    federation.wait_online(hostile, online=False)
    with HostileSite(hostile.folder) as attacker:
        row = federation.propose(study)
        federation.approve(row, honest)
        hostile.hansa("approve", row)
        ended = federation.wait_ended(row, seconds=90.0)
        assert attacker.played == [*ATTACKS, *WHOLE]
    found = results(federation, row)
    *attacked, last = found.rounds
    assert "hostile" in ended.reason or ended.state == "completed"
    for name, result in zip(attacker.played, attacked, strict=True):
        assert [site.site for site in result.sites] == ["honest"], name
        assert set(result.missing) == {"hostile"}, name
        assert 0 < len(result.missing["hostile"]) < 600, name
    assert [site.site for site in last.sites] == ["honest", "hostile"]  # the attacker's honest reply is taken
    assert all(result.train_loss is not None and np.isfinite(result.train_loss) for result in found.rounds)
    assert len(ATTACKS) + len(WHOLE) >= 40
    assert honest.events().count("reply-released") >= len(found.rounds)
