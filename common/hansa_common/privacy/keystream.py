"""Random words for noise: AES-256 in counter mode under a key of the operating system.

NIST SP 800-38A, section 6.5. A seeded generator would let anybody who knows the seed subtract the noise again, so no
NumPy or torch generator is used here, and a keystream never outlives a fork: two processes would draw one noise.
"""

import os
from typing import Final

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

Words = npt.NDArray[np.uint64]

KEY_BYTES: Final = 32  # AES-256
_BLOCK: Final = 16  # bytes of an AES block
_WORD: Final = 8  # bytes


class Keystream:
    """An endless stream of uniform 64-bit words, for one process.

    Args:
        key: 32 bytes. Left out, as everywhere but in a known-answer test, they come from ``os.urandom``.

    Raises:
        RuntimeError: The key has another length.
    """

    __slots__ = ("_encryptor", "_process")

    def __init__(self, key: bytes | None = None) -> None:
        key = os.urandom(KEY_BYTES) if key is None else key
        if len(key) != KEY_BYTES:
            raise RuntimeError(f"A keystream needs a key of {KEY_BYTES} bytes; found {len(key)}.")
        self._encryptor = Cipher(algorithms.AES256(key), modes.CTR(bytes(_BLOCK))).encryptor()
        self._process = os.getpid()

    def __repr__(self) -> str:
        return "Keystream()"

    def __reduce__(self) -> str:
        raise RuntimeError("A keystream is not copied: the copy would draw the same noise.")

    def words(self, count: int) -> Words:
        """Return the next ``count`` words: ``uint64 [count]``, little-endian pieces of the cipher's output.

        Raises:
            RuntimeError: It was made before this process was forked.
        """
        if os.getpid() != self._process:
            raise RuntimeError("This keystream belongs to the process that made it: make a new one after a fork.")
        size = count * _WORD
        buffer = bytearray(size + _BLOCK - 1)
        self._encryptor.update_into(bytes(size), buffer)
        return np.frombuffer(buffer, dtype="<u8", count=count).astype(np.uint64, copy=False)

    def word(self) -> int:
        """Return the next word as an integer."""
        return int(self.words(1)[0])
