"""The tensor codec: a parcel is one message as bytes, its arrays raw and their sizes known before they are read.

    magic "HNS1" | kind u8 | header length u32 | table length u32 | header | table | arrays

All numbers are big-endian, arrays little-endian and C-contiguous. The table is a JSON list of ``[name, dtype, shape]``
in the order in which the arrays follow; their lengths follow from it, and the whole must be exactly as long as that.
There is no pickle, no ``.npy`` header and no compression.
"""

import io
import json
import math
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import BinaryIO, Final

import numpy as np

from hansa_common.errors import MessageError
from hansa_common.mapping import give_back, map_file
from hansa_common.messages import MAX_ARRAY_NAME, MAX_ARRAYS, MAX_HEADER, Envelope, RawArray
from hansa_common.wire.protocol import CHUNK

_MAGIC: Final = b"HNS1"
_HEAD: Final = struct.Struct("!4sBII")
_MAX_TABLE: Final = 64 << 20  # bytes; 600,000 arrays of 100 bytes each
_MAX_DIMENSIONS: Final = 8
_MAX_NESTED: Final = 2 * MAX_ARRAYS + 1  # lists: an empty one is 2 bytes in the table and 60 in memory
_MAX_COMMAS: Final = (3 + _MAX_DIMENSIONS) * MAX_ARRAYS
_HALF_CHARACTER: Final = re.compile("[\ud800-\udfff]")  # JSON can spell it, UTF-8 cannot
_ITEM_BYTES: Final = {"<f4": 4, "<i8": 8, "|u1": 1, "<u2": 2, "<u4": 4, "<u8": 8}


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


def parse(content: bytes) -> Parcel:
    """Read a parcel from memory.

    Raises:
        MessageError: It is none; the message says which rule it breaks.
    """
    return read_parcel(io.BytesIO(content), len(content))


def read_parcel(file: BinaryIO, size: int, *, map_from: int | None = None) -> Parcel:
    """Read a parcel of ``size`` bytes; each array's bytes are read once, into their own place.

    Args:
        file: Stands at the parcel's first byte.
        size: Of the parcel.
        map_from: Arrays of at least so many bytes stay in the file, which must not be cut short while they are used.

    Raises:
        MessageError: It is none; the message says which rule it breaks.
    """
    head = file.read(_HEAD.size)
    if len(head) < _HEAD.size:
        raise MessageError("A parcel is cut off in its head.")
    magic, kind, header_size, table_size = _HEAD.unpack(head)
    if magic != _MAGIC or kind not in tuple(Kind):
        raise MessageError("These bytes are no parcel.")
    rest = size - _HEAD.size - header_size - table_size
    if header_size > MAX_HEADER or table_size > _MAX_TABLE or rest < 0:
        raise MessageError("A parcel's header is too large, or cut off.")
    header, table = file.read(header_size), _read_table(file.read(table_size))
    return Parcel(kind=Kind(kind), envelope=Envelope(header=header, arrays=_read_arrays(file, rest, table, map_from)))


def _read_table(table: bytes) -> list[tuple[str, str, tuple[int, ...]]]:
    if sum(map(table.count, (b"[", b"{"))) > _MAX_NESTED or table.count(b",") > _MAX_COMMAS:
        raise MessageError("A parcel's table has more than 600,000 arrays.")
    try:
        rows = json.loads(table.decode(), parse_float=_refuse, parse_constant=_refuse)
    except (ValueError, RecursionError):
        raise MessageError("A parcel's table is no JSON.") from None
    if not isinstance(rows, list) or len(rows) > MAX_ARRAYS:
        raise MessageError("A parcel's table is no list of at most 600,000 arrays.")
    found = []
    for row in rows:
        if not (isinstance(row, list) and len(row) == 3):  # noqa: PLR2004 - name, dtype, shape
            raise MessageError("A parcel's table has a row that is not name, dtype and shape.")
        name, dtype, shape = row
        if not isinstance(name, str) or not 0 < len(name) <= MAX_ARRAY_NAME or _HALF_CHARACTER.search(name):
            raise MessageError("A parcel has an array with a name that is not allowed.")
        if not isinstance(dtype, str) or dtype not in _ITEM_BYTES:
            raise MessageError("A parcel has an array with a dtype that is not allowed.")
        if not isinstance(shape, list) or len(shape) > _MAX_DIMENSIONS or not all(map(_is_size, shape)):
            raise MessageError("A parcel has an array with a shape that is not allowed.")
        found.append((name, dtype, tuple(shape)))
    return found


def _refuse(_text: str) -> None:
    raise ValueError("There are only integers in a table.")


def _is_size(value: object) -> bool:
    return type(value) is int and 0 <= value <= 1 << 40


def _read_arrays(
    file: BinaryIO, size: int, table: list[tuple[str, str, tuple[int, ...]]], map_from: int | None
) -> dict[str, RawArray]:
    lengths = [math.prod(shape) * _ITEM_BYTES[dtype] for _name, dtype, shape in table]
    if sum(lengths) != size:
        raise MessageError("A parcel's arrays are not as long as its table says.")
    arrays: dict[str, RawArray] = {}
    for (name, dtype, shape), length in zip(table, lengths, strict=True):
        if name in arrays:
            raise MessageError("A parcel has two arrays of one name.")
        data = file.read(length) if map_from is None or length < map_from else _map(file, length)
        if len(data) != length:
            raise MessageError("A parcel is cut off.")
        arrays[name] = RawArray(dtype=dtype, shape=shape, data=data)
    return arrays


def _map(file: BinaryIO, size: int) -> memoryview:
    start = file.tell()
    try:
        data = map_file(file, offset=start, size=size)
    except ValueError:
        raise MessageError("A parcel is cut off.") from None
    file.seek(start + size)
    return data


def _cut(data: bytes | memoryview) -> Iterator[bytes]:
    values = np.frombuffer(data, np.uint8)
    for start in range(0, len(values), CHUNK):
        piece = values[start : start + CHUNK]
        yield piece.tobytes()
        give_back(piece)
