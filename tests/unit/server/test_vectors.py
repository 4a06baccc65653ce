import errno
import os
import resource
import tempfile
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest

from hansa_common.errors import StorageError
from hansa_common.mapping import is_mapped, map_file
from hansa_common.messages import Message, TrainTask, encode
from hansa_common.parameters import CHUNK, Vector, chunks
from hansa_server.strategies import Contribution, next_parameters
from hansa_server.strategies.fedavg import FedAvg
from hansa_server.vectors import HeldUpdates, keep, leading


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def mapped(path: Path, vector: Vector) -> Vector:
    path.write_bytes(vector.tobytes())
    with path.open("rb") as file:
        return np.frombuffer(map_file(file, offset=0, size=vector.nbytes), np.float32)


@pytest.mark.parametrize("small", [0, 1 << 30])
def test_a_kept_vector_comes_back_and_goes_out_without_a_copy(tmp_path: Path, small: int) -> None:
    vector = np.arange(CHUNK + 5, dtype=np.float32)
    kept = keep(chunks(vector), vector.size, tmp_path, small=small)
    assert kept.tobytes() == vector.tobytes()
    assert is_mapped(kept) == (small == 0)
    assert list(tmp_path.iterdir()) == []
    sent = encode(Message(header=TrainTask(plan_digest="0" * 64, round=1, attempt=1), vector=kept)).arrays["vector"]
    assert np.shares_memory(np.frombuffer(sent.data, np.float32), kept)


@pytest.mark.parametrize("size", [CHUNK + 5, CHUNK - 3])
@pytest.mark.parametrize("small", [0, 1 << 30])
def test_the_model_in_a_vector_goes_out_without_a_copy(tmp_path: Path, small: int, size: int) -> None:
    """Each closing exchange else copies a model of any size."""
    vector = np.arange(CHUNK + 5, dtype=np.float32)
    kept = keep(chunks(vector), vector.size, tmp_path, small=small)
    model = leading(kept, size)
    assert model.tobytes() == vector[:size].tobytes()
    assert is_mapped(model) == (small == 0)
    sent = encode(Message(header=TrainTask(plan_digest="0" * 64, round=1, attempt=1), vector=model)).arrays["vector"]
    assert np.shares_memory(np.frombuffer(sent.data, np.float32), kept)


def test_a_vector_that_does_not_fit_on_the_disk_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_arguments: object) -> None: ...

        def write(self, _content: bytes) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def full(**_options: Any) -> Full:
        return Full()

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    with pytest.raises(StorageError, match="No space left"):
        keep([np.ones(3, np.float32)], 3, tmp_path, small=0)


@pytest.mark.parametrize("room", [0, 12, 1000])
@pytest.mark.parametrize("mappings", [0, 1, 9])
def test_held_updates_come_back_from_wherever_they_are(tmp_path: Path, room: int, mappings: int) -> None:
    folder = tmp_path / "held"
    folder.mkdir()
    held = HeldUpdates(folder, in_memory=room, mappings=mappings)
    deltas = {site: np.arange(3, dtype=np.float32) + index for index, site in enumerate("abcdef")}
    for site, delta in deltas.items():
        held.put(site, mapped(tmp_path / site, delta) if site in "bdf" else delta)
    for site in "fadbec" * 2:
        assert held.get(site).tolist() == deltas[site].tolist()
    held.put("g", deltas["a"])  # after the others were read
    assert held.get("g").tolist() == deltas["a"].tolist()
    held.close()
    assert list(folder.iterdir()) == []


def test_thousands_of_held_updates_need_two_descriptors(tmp_path: Path) -> None:
    held = HeldUpdates(tmp_path, in_memory=0)
    before = descriptors()
    for number in range(500):
        held.put(str(number), np.full(2, number, np.float32))
    found = [held.get(str(number)).tolist() for number in range(500)]
    assert found == [[number, number] for number in range(500)]
    assert descriptors() == before + 2  # the file and its mapping
    held.close()


def test_mapped_updates_beyond_a_number_give_their_descriptors_back(tmp_path: Path) -> None:
    held = HeldUpdates(tmp_path, mappings=3)
    before = descriptors()
    for number in range(20):
        held.put(str(number), mapped(tmp_path / "reply", np.full(2, number, np.float32)))
    assert descriptors() == before + 3 + 1
    held.close()
    assert descriptors() == before


def test_memory_of_a_round_does_not_grow_with_model_and_sites(tmp_path: Path) -> None:
    """Each of 4 models and of 4 x 8 updates would be 16 MiB; the kernel's own count of this process is the oracle."""
    size = 16 * CHUNK
    held = HeldUpdates(tmp_path, in_memory=0, mappings=2)
    parameters = keep((np.zeros(CHUNK, np.float32) for _ in range(16)), size, tmp_path)
    before = resident()
    most = before
    for number in range(8):
        delta = mapped(tmp_path / str(number), np.full(size, number, np.float32))
        held.put(str(number), delta)
        del delta
    assert resident() - before < 64 << 20
    updates = [Contribution(site=site, delta=held.get(site), num_examples=1, steps=1) for site in map(str, range(8))]

    def watched() -> Any:
        nonlocal most
        for part in next_parameters(FedAvg(), parameters, updates):
            most = max(most, resident())
            yield part

    following = keep(watched(), size, tmp_path)
    assert most - before < 64 << 20  # half of the updates; parts of 1 MiB, and what other tests left to collect
    assert all(bool((chunk == 3.5).all()) for chunk in chunks(following))
    assert resident() - before < 64 << 20
    held.close()


def resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()
