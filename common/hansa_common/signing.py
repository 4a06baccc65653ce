"""Ed25519 (RFC 8032) over canonical bytes, with a label that keeps one kind of statement from passing as another."""

from typing import Annotated, Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import Field

from hansa_common.canonical import canonical
from hansa_common.errors import IdentityError

PublicKey = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
"""An Ed25519 or X25519 public key: 32 bytes in hexadecimal digits."""

Signature = Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]
"""An Ed25519 signature: 64 bytes in hexadecimal digits."""


def sign(key: Ed25519PrivateKey, label: str, value: Any) -> str:
    """Return the signature of a JSON value as 128 hexadecimal digits.

    Args:
        key: Who states it.
        label: What kind of statement it is, for instance ``roster``; verified along with the value.
        value: A JSON value (RFC 8785).
    """
    return key.sign(_statement(label, value)).hex()


def verify(public_key: str, label: str, value: Any, signature: str) -> None:
    """Return if ``signature`` is that of the holder of ``public_key`` over this value and label.

    Raises:
        IdentityError: It is not.
    """
    try:
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(public_key))
        key.verify(bytes.fromhex(signature), _statement(label, value))
    except (InvalidSignature, ValueError):
        raise IdentityError(
            f"The signature of this {label} is not that of the key {public_key[:16]}...",
            advice="It was changed on its way or signed with another key; ask its sender for it again.",
        ) from None


def public_hex(key: Ed25519PrivateKey) -> str:
    """Return the public half in hexadecimal digits."""
    return key.public_key().public_bytes_raw().hex()


def _statement(label: str, value: Any) -> bytes:
    return f"hansa-1/{label}".encode() + b"\0" + canonical(value)
