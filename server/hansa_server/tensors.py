"""Writes files of tensors piece by piece, in the format of safetensors, whose own writer needs them in memory twice.

Format: header length u64 little-endian | header, JSON | the tensors' bytes, in the order of the header's offsets.
https://huggingface.co/docs/safetensors
"""

import json
import struct
from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from hansa_common.mapping import give_back
from hansa_common.parameters import parts

_DTYPES: Final = {"i8": "I64", "f8": "F64", "f4": "F32", "u1": "U8"}  # as they follow each other in a file
_ALIGNED: Final = 8  # bytes; the first tensor begins at a multiple of it


def pieces(tensors: Mapping[str, npt.NDArray[Any]], metadata: Mapping[str, str] | None = None) -> Iterator[bytes]:
    """Yield the bytes of a file; as in safetensors' own, wider types come first, so that each tensor is aligned.

    Args:
        tensors: By name; float64, int64, float32 or uint8.
        metadata: Text to go with them.

    Raises:
        RuntimeError: A tensor has another type; the caller's bug.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    names = sorted(tensors, key=lambda name: (_rank(name, tensors[name]), name))
    offset = 0
    for name in names:
        values = tensors[name]
        dtype = _DTYPES[values.dtype.str[1:]]
        header[name] = {"dtype": dtype, "shape": values.shape, "data_offsets": [offset, offset + values.nbytes]}
        offset += values.nbytes
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _ALIGNED)
    yield struct.pack("<Q", len(text)) + text
    for name in names:
        values = np.ascontiguousarray(tensors[name]).reshape(-1)
        for part in parts(values.size):
            yield values[part].astype(values.dtype.newbyteorder("<"), copy=False).tobytes()
            give_back(values[part])


def _rank(name: str, values: npt.NDArray[Any]) -> int:
    try:
        return list(_DTYPES).index(values.dtype.str[1:])
    except ValueError:
        raise RuntimeError(f"Tensor '{name}' has type {values.dtype}.") from None
