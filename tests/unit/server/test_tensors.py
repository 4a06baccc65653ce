"""Oracle: safetensors itself."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from safetensors.numpy import load, save

from hansa_common.parameters import CHUNK
from hansa_server.tensors import pieces

TENSORS: dict[str, npt.NDArray[Any]] = {
    "b": np.arange(6, dtype=np.float32).reshape(2, 3),
    "a.größe": np.arange(CHUNK + 3, dtype=np.float32),
    "scalar": np.array(3.5, dtype=np.float32),
    "empty": np.zeros((0, 4), np.float32),
    "state": np.array([0.1, 0.2]),
    "steps": np.array([3], np.int64),
    "text": np.frombuffer(b"abc", np.uint8),
    "turned": np.arange(6, dtype=np.float32).reshape(2, 3).T,
}


@pytest.mark.parametrize("metadata", [None, {"study": 'näh "x"'}])
def test_a_file_is_byte_for_byte_what_safetensors_writes(metadata: dict[str, str] | None) -> None:
    contiguous = {name: np.ascontiguousarray(values).reshape(values.shape) for name, values in TENSORS.items()}
    content = b"".join(pieces(TENSORS, metadata))
    assert content == save(contiguous, metadata)
    assert {name: values.tolist() for name, values in load(content).items()} == {
        name: values.tolist() for name, values in TENSORS.items()
    }


def test_no_piece_is_larger_than_a_part() -> None:
    assert max(map(len, pieces({"w": np.zeros(3 * CHUNK, np.float32)}))) == 4 * CHUNK


def test_another_type_is_a_bug_of_the_caller() -> None:
    with pytest.raises(RuntimeError, match="float16"):
        list(pieces({"w": np.zeros(3, np.float16)}))
