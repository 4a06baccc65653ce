"""Masks against a second implementation: AES in ECB mode over counters, and sums in Python's integers."""

import os
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB
from hypothesis import given, settings
from hypothesis import strategies as st

from hansa_common.secagg import masking
from hansa_common.secagg.masking import KEY_BYTES, KeyStream, apply, require_words, room


def stream(key: bytes, count: int) -> bytes:
    """NIST SP 800-38A, section 6.5: each block is the encryption of its number."""
    encryptor = Cipher(AES(key), ECB()).encryptor()
    blocks = b"".join(number.to_bytes(16, "big") for number in range(-(-count // 16)))
    return encryptor.update(blocks)[:count]


def test_the_key_stream_is_aes_256_in_counter_mode() -> None:
    """NIST SP 800-38A, F.5.5, has another first counter; its key and the block cipher are checked by ``stream``."""
    key = bytes.fromhex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4")
    counter = bytes.fromhex("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff")
    assert Cipher(AES(key), ECB()).encryptor().update(counter).hex() == "0bdf7df1591716335e9a8b15c860c502"
    buffer = room()
    KeyStream(key).fill(buffer, 1000)
    assert buffer[:1000].tobytes() == stream(key, 1000)


@pytest.mark.parametrize("key", [b"", bytes(16), bytes(24), bytes(31), bytes(33)])
def test_a_key_has_256_bits(key: bytes) -> None:
    assert KEY_BYTES == 32
    with pytest.raises(ValueError):
        KeyStream(key)


@pytest.mark.parametrize("dtype", ["<u2", "<u4", "<u8"])
@pytest.mark.parametrize(
    ("chunks", "more", "threads"), [(1, -1, 1), (1, 0, 2), (1, 1, 1), (1, 1, 2), (2, 5, 1), (2, 5, 2), (3, -5, 2)]
)
def test_masks_are_added_and_subtracted_word_by_word_across_chunks(
    monkeypatch: pytest.MonkeyPatch, dtype: str, chunks: int, more: int, threads: int
) -> None:
    monkeypatch.setattr(masking, "CHUNK", 1 << 10)
    width = np.dtype(dtype).itemsize
    size = chunks * masking.CHUNK // width + more
    words = np.frombuffer(os.urandom(size * width), dtype=dtype).copy()
    keys = [os.urandom(32) for _ in range(3)]
    first, second, third = (np.frombuffer(stream(key, size * width), dtype=dtype).astype(object) for key in keys)
    expected = (words.astype(object) + first + second - third) % 2 ** (8 * width)
    apply(words, add=keys[:2], subtract=keys[2:], threads=threads)
    assert words.tolist() == expected.tolist()


@settings(max_examples=50, deadline=None, derandomize=True, database=None)
@given(
    dtype=st.sampled_from(["<u2", "<u4", "<u8"]),
    size=st.integers(0, 40),
    keys=st.lists(st.binary(min_size=32, max_size=32)),
)
def test_what_is_added_is_taken_off_again(dtype: str, size: int, keys: list[bytes]) -> None:
    words = np.arange(size, dtype=dtype)
    apply(words, add=keys)
    apply(words, subtract=keys[::-1])
    assert words.tolist() == list(range(size))


def test_a_masked_vector_looks_uniform() -> None:
    """A smoke test only: a stream from a seed of 28 bits would pass too. Key lengths are tested above."""
    words = np.zeros(1 << 16, dtype="<u2")
    apply(words, add=[bytes(32)])
    observed = np.bincount(words & 0xFF, minlength=256)
    assert ((observed - 256.0) ** 2 / 256).sum() < 400  # 255 degrees of freedom: 6.4 standard deviations


def test_masks_of_two_keys_have_nothing_in_common() -> None:
    first, second = np.zeros(1000, dtype="<u8"), np.zeros(1000, dtype="<u8")
    apply(first, add=[bytes(32)])
    apply(second, add=[bytes(31) + b"\1"])
    assert not set(first.tolist()) & set(second.tolist())


@pytest.mark.parametrize(
    "words",
    [
        np.zeros(4, dtype="<u4")[::2],
        np.zeros((2, 2), dtype="<u4"),
        np.zeros(4, dtype="<i4"),
        np.zeros(4, dtype=">u4"),
        np.zeros(4, dtype="<u2"),
        np.zeros(4, dtype="<f4"),
        np.frombuffer(bytes(16), dtype="<u4"),
    ],
)
def test_arrays_that_cannot_be_masked_in_place_are_refused(words: Any) -> None:
    with pytest.raises(ValueError, match="contiguous, writable"):
        require_words(words, np.dtype("<u4"))


def test_no_numpy_generator_is_near_a_mask() -> None:
    from pathlib import Path

    import hansa_common.secagg

    for path in Path(hansa_common.secagg.__file__).parent.glob("*.py"):
        text = path.read_text()
        for word in ("np.random", "numpy.random", "default_rng", "import random", "from random"):
            assert word not in text, path
