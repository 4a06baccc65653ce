import base64
import datetime as dt
import hashlib
from collections.abc import Callable
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from hansa_common.canonical import canonical
from hansa_common.errors import UsageError
from hansa_common.invitation import Invitation, is_proof, prove, read_invitation, transcript
from hansa_common.roster import SignedBinding

SECRET = "0f" * 16


def invitation(**changes: Any) -> Invitation:
    values: dict[str, Any] = {
        "id": "ab" * 16,
        "secret": SECRET,
        "federation": "thorax",
        "site": "Universitätsklinik Lübeck",
        "enrolment": "fl.example.org:8443",
        "address": "fl.example.org:8444",
        "authority": "-----BEGIN CERTIFICATE-----\n",
        "founder": "cd" * 32,
        "roster": "ef" * 32,
        "expires": 1_800_000_000,
    }
    return Invitation(**(values | changes))


@pytest.fixture
def values(cast: Any) -> dict[str, Any]:
    return {
        "invitation": "ab" * 16,
        "nonce": "cd" * 32,
        "authority_pin": "ef" * 32,
        "roster": "12" * 32,
        "binding": cast.member(1),
        "certificate_request": cast.node(1).certificate_request(),
    }


@given(site=st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/\\"), min_size=1, max_size=64))
def test_an_invitation_is_read_back_from_its_string(site: str) -> None:
    text = invitation(site=site).encode()
    assert text.isascii()
    assert read_invitation(text) == invitation(site=site)


def test_line_breaks_of_a_mail_programme_do_no_harm() -> None:
    text = invitation().encode()
    folded = "\r\n  ".join(text[start : start + 60] for start in range(0, len(text), 60))
    assert read_invitation(f" {folded}\n") == invitation()


@given(data=st.data())
def test_a_string_that_was_not_copied_whole_is_refused(data: st.DataObject) -> None:
    text = invitation().encode()
    kind = data.draw(st.sampled_from(["cut", "drop", "change"]))
    position = data.draw(st.integers(0, len(text) - 1))
    if kind == "cut":
        broken = text[:position]
    elif kind == "drop":
        broken = text[:position] + text[position + 1 :]
    else:
        letter = data.draw(st.sampled_from("ABCabc012-_"))
        broken = text[:position] + letter + text[position + 1 :]
    try:
        read = read_invitation(broken)
    except UsageError:
        return
    assert (kind, read) == ("change", invitation())  # base64 does not use the last bits of its last letter


@given(text=st.text(max_size=200) | st.binary(max_size=200).map(lambda content: f"hansa1-{content.hex()}"))
def test_any_other_text_is_no_invitation(text: str) -> None:
    with pytest.raises(UsageError, match="no invitation"):
        read_invitation(text)


def test_an_endless_text_is_no_invitation() -> None:
    with pytest.raises(UsageError):
        read_invitation(invitation(authority="x" * 5_000).encode() + "A" * 20_000)


def test_an_invitation_with_unknown_keys_or_format_is_refused() -> None:
    def spell(content: dict[str, Any]) -> str:
        written = canonical(content)
        body = base64.urlsafe_b64encode(written).decode().rstrip("=")
        return f"hansa1-{body}-{hashlib.sha256(written).hexdigest()[:8]}"

    content = invitation().model_dump()
    assert read_invitation(spell(content)) == invitation()
    for change in ({"format": 2}, {"extra": 1}, {"secret": "0f"}, {"expires": "1"}, {"site": "a/b"}):
        with pytest.raises(UsageError):
            read_invitation(spell(content | change))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("enrolment", "fl.example.org"),
        ("enrolment", "https://fl.example.org:1"),
        ("address", "fl.example.org:8444\n"),
        ("address", " :1"),
        ("secret", "0F" * 16),
        ("secret", "0f" * 15),
        ("expires", -1),
        ("expires", 1.5),
        ("site", ""),
    ],
)
def test_a_field_that_is_not_of_its_form_is_refused(name: str, value: Any) -> None:
    with pytest.raises(ValidationError):
        invitation(**{name: value})


def test_the_secret_is_not_printed() -> None:
    assert SECRET not in repr(invitation())
    assert SECRET not in str(invitation())


def test_an_authority_that_is_no_certificate_says_so() -> None:
    with pytest.raises(UsageError, match="no certificate"):
        invitation().authority_certificate()


def test_the_authority_is_read(cast: Any) -> None:
    request = x509.load_pem_x509_csr(cast.node(1).certificate_request().encode())

    start = dt.datetime(2025, 1, 1, tzinfo=dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(request.subject)
        .issuer_name(request.subject)
        .public_key(cast.node(1).tls.public_key())
        .serial_number(5)
        .not_valid_before(start)
        .not_valid_after(start + dt.timedelta(1))
        .sign(cast.node(1).tls, hashes.SHA256())
    )
    pem = certificate.public_bytes(Encoding.PEM).decode()
    assert invitation(authority=pem).authority_certificate() == certificate


def test_a_proof_holds_for_the_secret_and_the_transcript(values: dict[str, Any]) -> None:
    statement = transcript(**values)
    assert is_proof(SECRET, statement, prove(SECRET, statement))
    assert not is_proof("f0" * 16, statement, prove(SECRET, statement))
    assert not is_proof(SECRET, statement, "0" * 64)


def test_every_value_of_the_transcript_is_proved(values: dict[str, Any], cast: Any) -> None:
    proof = prove(SECRET, transcript(**values))
    others: dict[str, list[Any]] = {
        "invitation": ["ba" * 16],
        "nonce": ["dc" * 32],
        "authority_pin": ["fe" * 32],
        "roster": ["21" * 32],
        "binding": [cast.member(2), SignedBinding(binding=cast.binding(1), signature="00" * 64)],
        "certificate_request": [cast.node(2).certificate_request(), values["certificate_request"] + "\n"],
    }
    assert set(others) == set(values)
    for name, changes in others.items():
        for change in changes:
            assert not is_proof(SECRET, transcript(**(values | {name: change})), proof), name


def test_values_do_not_flow_into_each_other(values: dict[str, Any]) -> None:
    proof = prove(SECRET, transcript(**values))
    for first, second in (("nonce", "roster"), ("authority_pin", "roster"), ("nonce", "authority_pin")):
        swapped = values | {first: values[second], second: values[first]}
        assert not is_proof(SECRET, transcript(**swapped), proof)


def test_a_binding_changed_in_any_field_changes_the_proof(
    values: dict[str, Any], cast: Any, replace_in: Callable[..., Any]
) -> None:
    proof = prove(SECRET, transcript(**values))
    for path, value in (
        (("site",), "Site 2"),
        (("federation",), "other"),
        (("keys", "tls"), "cd" * 91),
        (("keys", "signing"), "cd" * 32),
        (("keys", "agreement"), "cd" * 32),
        (("organisation", "key"), "cd" * 32),
        (("organisation", "name"), "Another"),
        (("issued_at",), 0),
    ):
        content = replace_in(cast.member(1).model_dump(), ("binding", *path), value)
        changed = SignedBinding(**content)
        assert not is_proof(SECRET, transcript(**(values | {"binding": changed})), proof), path
