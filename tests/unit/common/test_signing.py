from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from hansa_common.errors import IdentityError
from hansa_common.signing import public_hex, sign, verify

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
_JSON = st.dictionaries(st.text(max_size=5), st.integers(-99, 99) | st.text(max_size=5) | st.booleans(), max_size=3)


@given(label=st.from_regex("[a-z]{1,9}", fullmatch=True), value=_JSON)
def test_a_signature_holds_for_its_key_label_and_value(label: str, value: dict[str, Any]) -> None:
    verify(public_hex(KEY), label, value, sign(KEY, label, value))


def test_what_is_signed_is_label_and_canonical_bytes() -> None:
    assert sign(KEY, "leave", {"b": 1, "a": "x"}) == KEY.sign(b'hansa-1/leave\0{"a":"x","b":1}').hex()


@given(first=_JSON, second=_JSON)
def test_another_value_is_refused(first: dict[str, Any], second: dict[str, Any]) -> None:
    signature = sign(KEY, "roster", first)
    if sign(KEY, "roster", second) == signature:
        return  # 1 and True differ in JSON; equal signatures mean equal bytes, as Ed25519 is deterministic
    with pytest.raises(IdentityError, match="roster"):
        verify(public_hex(KEY), "roster", second, signature)


@pytest.mark.parametrize("other", ["rosters", "roste", "binding", "", "roster\0"])
def test_a_statement_of_one_kind_never_passes_as_another(other: str) -> None:
    signature = sign(KEY, "roster", {"version": 1})
    with pytest.raises(IdentityError):
        verify(public_hex(KEY), other, {"version": 1}, signature)


def test_another_key_is_refused_and_neither_key_nor_signature_is_printed_whole() -> None:
    signature = sign(KEY, "leave", 1)
    with pytest.raises(IdentityError) as refusal:
        verify(public_hex(OTHER), "leave", 1, signature)
    assert signature not in str(refusal.value)
    assert public_hex(OTHER) not in str(refusal.value)


@given(position=st.integers(0, 511))
def test_every_bit_of_a_signature_counts(position: int) -> None:
    signature = bytearray.fromhex(sign(KEY, "leave", {"at": 1}))
    signature[position // 8] ^= 1 << position % 8
    with pytest.raises(IdentityError):
        verify(public_hex(KEY), "leave", {"at": 1}, signature.hex())


@pytest.mark.parametrize("key", ["", "00", "zz" * 32, "ab" * 33, "é" * 64])
@pytest.mark.parametrize("signature", ["", "00" * 64, "zz" * 64, "00" * 65])
def test_what_is_no_key_or_no_signature_is_refused(key: str, signature: str) -> None:
    with pytest.raises(IdentityError):
        verify(key, "leave", 1, signature)
    with pytest.raises(IdentityError):
        verify(public_hex(KEY), "leave", 1, signature)
