"""A mapped array is the file's bytes, and in memory only between the first look at it and ``give_back``."""

from pathlib import Path

import numpy as np
import pytest

from hansa_common.mapping import give_back, is_mapped, map_file
from hansa_common.parameters import CHUNK, Vector, chunks

OFFSET = 4_099  # neither a page's begin nor a value's
HUGE = 2 * (2 << 20)  # bytes; a file system that has huge pages maps one at either end


def resident(path: Path) -> int:
    """Bytes of a mapped file that count as this process's memory, as the kernel says (proc_pid_smaps(5))."""
    found, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split()[0]:
            inside = line.endswith(str(path))
        elif inside and line.startswith("Rss:"):
            found += int(line.split()[1]) * 1024
    return found


def mapped(path: Path, vector: Vector) -> Vector:
    path.write_bytes(bytes(OFFSET) + vector.tobytes())
    with path.open("rb") as file:
        return np.frombuffer(map_file(file, offset=OFFSET, size=vector.nbytes), np.float32)


def test_a_mapped_array_holds_the_files_values_and_cannot_be_written(tmp_path: Path) -> None:
    vector = np.arange(CHUNK, dtype=np.float32)
    found = mapped(tmp_path / "file", vector)
    assert np.array_equal(found, vector)
    assert not found.flags.writeable
    assert is_mapped(found)
    assert is_mapped(found[5:9])
    assert not is_mapped(vector)
    assert not is_mapped(np.frombuffer(bytes(8), np.float32))


@pytest.mark.slow
def test_what_is_read_in_chunks_is_never_in_memory_as_a_whole(tmp_path: Path) -> None:
    path, vector = tmp_path / "file", np.arange(20 * CHUNK + 3, dtype=np.float32)
    found, most, values = mapped(path, vector), 0, 0
    for chunk in chunks(found):
        values += int(np.count_nonzero(chunk == vector[values : values + chunk.size]))
        most = max(most, resident(path))
    assert values == vector.size
    assert CHUNK * 4 <= most <= CHUNK * 4 + HUGE
    assert found.sum() > 0  # all of it
    assert resident(path) >= vector.nbytes
    give_back(found)
    assert resident(path) == 0
    assert np.array_equal(found, vector)


def test_a_part_given_back_leaves_the_rest_of_a_mapping(tmp_path: Path) -> None:
    path, vector = tmp_path / "file", np.ones(8 * CHUNK, np.float32)
    found = mapped(path, vector)
    assert found.sum() == vector.size
    give_back(found[2 * CHUNK : 3 * CHUNK])
    left = resident(path)
    assert vector.nbytes - 4 * CHUNK - HUGE <= left < vector.nbytes
    assert found.sum() == vector.size


def test_arrays_in_memory_are_left_alone() -> None:
    vector = np.ones(5, np.float32)
    give_back(vector)
    assert vector.sum() == 5


def test_an_empty_part_and_a_short_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(10))
    with path.open("rb") as file:
        assert bytes(map_file(file, offset=10, size=0)) == b""
        with pytest.raises(ValueError, match="length"):
            map_file(file, offset=8, size=3)
