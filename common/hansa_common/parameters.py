"""Named float32 vectors: the parameters of a model, an update, an optimiser's state.

All parameters of a model are one contiguous vector; ``ParameterSpec`` says which part of it is which tensor. ``P`` is
the number of parameters.
"""

import hashlib
import math
from collections.abc import Iterator
from typing import Annotated, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from hansa_common.mapping import give_back
from hansa_common.settings import Strict

Vector = npt.NDArray[np.float32]
Accumulator = npt.NDArray[np.float64]

CHUNK = 1 << 18  # float32 values; one mebibyte stays in the cache of a core
_BLOCK = 1 << 15  # values; temporaries in float64 stay in the cache of a core, and on the heap
MAX_PARAMETERS = 1 << 31  # 8 GiB as float32


class Tensor(Strict):
    """The name and shape of one tensor."""

    name: Annotated[str, Field(min_length=1, max_length=500)]
    shape: Annotated[tuple[Annotated[int, Field(ge=0, le=MAX_PARAMETERS)], ...], Field(max_length=8)]

    @property
    def size(self) -> int:
        """How many values it has."""
        return math.prod(self.shape)


class ParameterSpec(Strict):
    """The tensors of a model in the order in which they lie in the vector."""

    tensors: Annotated[tuple[Tensor, ...], Field(min_length=1, max_length=100_000)]

    @model_validator(mode="after")
    def _can_be_stored(self) -> Self:
        names = {tensor.name for tensor in self.tensors}
        if len(names) != len(self.tensors) or "__metadata__" in names:  # a safetensors file could not tell them apart
            raise ValueError("two tensors have one name, or one is called '__metadata__'.")
        if self.size > MAX_PARAMETERS:
            raise ValueError(f"more than {MAX_PARAMETERS:,} parameters.")
        return self

    @property
    def size(self) -> int:
        """``P``, the length of the vector."""
        return sum(tensor.size for tensor in self.tensors)

    def split(self, vector: Vector) -> Iterator[tuple[str, Vector]]:
        """Yield each tensor's name and a view of its part of the vector, in its shape."""
        offset = 0
        for tensor in self.tensors:
            yield tensor.name, vector[offset : offset + tensor.size].reshape(tensor.shape)
            offset += tensor.size


def parts(size: int) -> Iterator[slice]:
    """Yield the parts of a vector of ``size`` values, ``CHUNK`` values each but the last."""
    for start in range(0, size, CHUNK):
        yield slice(start, min(start + CHUNK, size))


def chunks(vector: Vector) -> Iterator[Vector]:
    """Yield views of a vector part by part; of a mapped one, no more than a part is in memory."""
    for part in parts(vector.size):
        chunk = vector[part]
        yield chunk
        give_back(chunk)


def is_finite(vector: Vector) -> bool:
    """Tell whether no value is NaN or infinite, a chunk at a time."""
    return all(bool(np.isfinite(chunk).all()) for chunk in chunks(vector))


def largest(vector: Vector) -> float:
    """Return the largest absolute value, 0 where there is no value and NaN where one is NaN; a chunk at a time."""
    found = [max(float(chunk.max()), -float(chunk.min())) for chunk in chunks(vector)]
    return float(np.max(found, initial=0.0))


def sha256_of(vector: Vector) -> str:
    """Return the SHA-256 of the values as little-endian float32, in hexadecimal; a chunk at a time."""
    digest = hashlib.sha256()
    for chunk in chunks(vector):
        digest.update(chunk.astype("<f4", copy=False).view(np.uint8).data)
    return digest.hexdigest()


def l2_norm(vector: Vector) -> float:
    """Return the Euclidean norm, summed in float64."""
    squares = (float(np.dot(chunk, chunk)) for part in chunks(vector) for chunk in (part.astype(np.float64),))
    return math.sqrt(math.fsum(squares))


def add_scaled(accumulator: Accumulator, vector: Vector, weight: float) -> None:
    """Add ``weight * vector`` to a float64 accumulator in place, without a temporary of the vector's length."""
    if accumulator.shape != vector.shape:
        raise RuntimeError(f"Cannot add {vector.shape} to {accumulator.shape}.")
    for start in range(0, vector.size, _BLOCK):
        part = slice(start, start + _BLOCK)
        accumulator[part] += weight * vector[part].astype(np.float64)
