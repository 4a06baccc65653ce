"""Canonical bytes of a JSON value (RFC 8785): what is hashed and signed."""

import hashlib
from typing import Any

import rfc8785


def canonical(value: Any) -> bytes:
    """Return the one byte string that RFC 8785 (JSON Canonicalization Scheme) gives a JSON value.

    Raises:
        ValueError: The value is no JSON value, or an integer is outside +-(2**53 - 1), where JSON loses it.
    """
    return rfc8785.dumps(value)


def digest(value: Any) -> str:
    """Return the SHA-256 of the canonical bytes, in 64 hexadecimal digits."""
    return hashlib.sha256(canonical(value)).hexdigest()
