"""What a site keeps, and that nothing of it has a place in a message."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hansa_client.site_state import Kept, PersonalModel, StateFolder
from hansa_client.worker_state import apart, kept_of, state_of, with_state
from hansa_common.errors import MessageError, StorageError, TaskRefused
from hansa_common.messages import Envelope, InitialTask, Message, RawArray, decode, encode
from hansa_common.parameters import ParameterSpec, Tensor

SPEC = ParameterSpec(tensors=(Tensor(name="w", shape=(2, 3)), Tensor(name="b", shape=(1,))))
VECTOR = np.arange(7, dtype=np.float32)
TASK = encode(Message(header=InitialTask(plan_digest="0" * 64)))


def test_state_comes_back_by_round_and_older_ones_go(tmp_path: Path) -> None:
    folder = StateFolder(tmp_path / "a" / "state")
    assert folder.load(0) == {}
    for number, basis in [(1, 0), (2, 1), (3, 1), (7, 3)]:
        folder.keep(Kept(state={"x": VECTOR + number}), round_number=number, basis=basis, about={})
        np.testing.assert_array_equal(folder.load(number)["x"], VECTOR + number)
    assert folder.load(3)
    for gone in (1, 2, 5):
        with pytest.raises(TaskRefused, match=f"round {gone}"):
            folder.load(gone)


def test_what_is_broken_is_named(tmp_path: Path) -> None:
    folder = StateFolder(tmp_path)
    (tmp_path / "round-000004.safetensors").write_bytes(b"\x00" * 9)
    with pytest.raises(StorageError, match="read back"):
        folder.load(4)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_not_kept(tmp_path: Path, value: float) -> None:
    bad = np.array([1.0, value], np.float32)
    for kept in (Kept(state={"x": bad}), Kept(personal=PersonalModel(spec=SPEC, vector=np.full(7, value, np.float32)))):
        with pytest.raises(StorageError, match="NaN"):
            StateFolder(tmp_path).keep(kept, round_number=1, basis=0, about={})
    assert not list(tmp_path.iterdir())


@settings(max_examples=30, derandomize=True)
@given(st.dictionaries(st.text("abc/-", min_size=1, max_size=5), st.lists(st.floats(width=32), max_size=9), max_size=4))
def test_state_passes_beside_a_message(values: dict[str, list[float]]) -> None:
    state = {name: np.array(vector, np.float32) for name, vector in values.items()}
    bare, vectors = apart(with_state(TASK, state))
    assert bare == TASK
    found = state_of(vectors)
    assert {name: vector.tobytes() for name, vector in found.items()} == {
        name: vector.tobytes() for name, vector in state.items()
    }


def test_a_personal_model_passes_with_its_tensors() -> None:
    _bare, vectors = apart(with_state(TASK, {}, VECTOR))
    found = kept_of({"spec": SPEC.model_dump_json()}, vectors)
    assert found.personal is not None
    assert found.personal.spec == SPEC
    np.testing.assert_array_equal(found.personal.vector, VECTOR)
    for head in ({}, {"spec": '{"tensors": []}'}, {"spec": '{"tensors": [{"name": "w", "shape": [3]}]}'}, {"spec": 3}):
        with pytest.raises(MessageError):
            kept_of(head, vectors)


@pytest.mark.parametrize("name", ["state/control", "personal"])
def test_a_peer_cannot_send_state_and_a_site_cannot(name: str) -> None:
    array = RawArray(dtype="<f4", shape=(1,), data=b"\x00" * 4)
    with pytest.raises(MessageError):
        decode(Envelope(header=TASK.header, arrays={name: array}))


@pytest.mark.parametrize(
    "array",
    [
        RawArray(dtype="<i8", shape=(1,), data=b"\x00" * 8),
        RawArray(dtype="<f4", shape=(1, 1), data=b"\x00" * 4),
        RawArray(dtype="<f4", shape=(2,), data=b"\x00" * 4),
    ],
)
def test_a_worker_that_gives_something_else_is_refused(array: RawArray) -> None:
    with pytest.raises(MessageError):
        apart(Envelope(header=TASK.header, arrays={"state/x": array}))
    many = {f"state/{number}": RawArray(dtype="<f4", shape=(0,), data=b"") for number in range(17)}
    with pytest.raises(MessageError, match="More"):
        apart(Envelope(header=TASK.header, arrays=many))
