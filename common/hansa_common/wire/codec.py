"""The tensor codec: a parcel is one message as bytes, its arrays raw and their sizes known before they are read.

    magic "HNS1" | kind u8 | header length u32 | table length u32 | header | table | arrays

All numbers are big-endian, arrays little-endian and C-contiguous. The table is a JSON list of ``[name, dtype, shape]``
in the order in which the arrays follow; their lengths follow from it, and the whole must be exactly as long as that.
There is no pickle, no ``.npy`` header and no compression.
"""

import json
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from hansa_common.errors import MessageError
from hansa_common.messages import MAX_ARRAY_NAME, MAX_ARRAYS, MAX_HEADER, Envelope, RawArray
from hansa_common.wire.protocol import CHUNK

_MAGIC: Final = b"HNS1"
_HEAD: Final = struct.Struct("!4sBII")
_MAX_TABLE: Final = 64 << 20  # bytes; 600,000 arrays of 100 bytes each
_MAX_DIMENSIONS: Final = 8
_ITEM_BYTES: Final = {"<f4": 4, "<i8": 8, "|u1": 1}


class Kind(IntEnum):
    """What a parcel holds."""

    HANSA = 1  # a message of ``hansa_common.messages``
    FLOWER = 2  # records of another Flower app; every array is ``|u1``


@dataclass(frozen=True, slots=True, kw_only=True)
class Parcel:
    """One message on its way."""

    kind: Kind
    envelope: Envelope

    def pieces(self) -> Iterator[bytes]:
        """Yield the bytes in chunks of at most ``CHUNK``; an array's bytes are copied a chunk at a time."""
        arrays = self.envelope.arrays
        table = json.dumps([[name, array.dtype, array.shape] for name, array in arrays.items()]).encode()
        head = _HEAD.pack(_MAGIC, self.kind, len(self.envelope.header), len(table))
        yield from _cut(head + self.envelope.header + table)
        for array in arrays.values():
            yield from _cut(array.data)


def parse(content: bytes | memoryview) -> Parcel:
    """Read a parcel; each array's bytes are copied once.

    Raises:
        MessageError: It is none; the message says which rule it breaks.
    """
    view = memoryview(content)
    if len(view) < _HEAD.size:
        raise MessageError("A parcel is cut off in its head.")
    magic, kind, header_size, table_size = _HEAD.unpack_from(view)
    if magic != _MAGIC or kind not in tuple(Kind):
        raise MessageError("These bytes are no parcel.")
    if header_size > MAX_HEADER or table_size > _MAX_TABLE or _HEAD.size + header_size + table_size > len(view):
        raise MessageError("A parcel's header is too large, or cut off.")
    end = _HEAD.size + header_size
    header, table = bytes(view[_HEAD.size : end]), bytes(view[end : end + table_size])
    arrays = _read_arrays(view[end + table_size :], _read_table(table))
    return Parcel(kind=Kind(kind), envelope=Envelope(header=header, arrays=arrays))


def _read_table(table: bytes) -> list[tuple[str, str, tuple[int, ...]]]:
    try:
        rows = json.loads(table)
    except (ValueError, RecursionError):
        raise MessageError("A parcel's table is no JSON.") from None
    if not isinstance(rows, list) or len(rows) > MAX_ARRAYS:
        raise MessageError("A parcel's table is no list of at most 600,000 arrays.")
    found = []
    for row in rows:
        if not (isinstance(row, list) and len(row) == 3):  # noqa: PLR2004 - name, dtype, shape
            raise MessageError("A parcel's table has a row that is not name, dtype and shape.")
        name, dtype, shape = row
        if not isinstance(name, str) or not 0 < len(name) <= MAX_ARRAY_NAME:
            raise MessageError("A parcel has an array with a name that is not allowed.")
        if not isinstance(dtype, str) or dtype not in _ITEM_BYTES:
            raise MessageError("A parcel has an array with a dtype that is not allowed.")
        if not isinstance(shape, list) or len(shape) > _MAX_DIMENSIONS or not all(map(_is_size, shape)):
            raise MessageError("A parcel has an array with a shape that is not allowed.")
        found.append((name, dtype, tuple(shape)))
    return found


def _is_size(value: object) -> bool:
    return type(value) is int and 0 <= value <= 1 << 40


def _read_arrays(view: memoryview, table: list[tuple[str, str, tuple[int, ...]]]) -> dict[str, RawArray]:
    lengths = [math.prod(shape) * _ITEM_BYTES[dtype] for _name, dtype, shape in table]
    if sum(lengths) != len(view):
        raise MessageError("A parcel's arrays are not as long as its table says.")
    arrays: dict[str, RawArray] = {}
    offset = 0
    for (name, dtype, shape), length in zip(table, lengths, strict=True):
        if name in arrays:
            raise MessageError("A parcel has two arrays of one name.")
        arrays[name] = RawArray(dtype=dtype, shape=shape, data=bytes(view[offset : offset + length]))
        offset += length
    return arrays


def _cut(data: bytes) -> Iterator[bytes]:
    view = memoryview(data)
    for start in range(0, len(view), CHUNK):
        yield bytes(view[start : start + CHUNK])
