import itertools
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from hansa_common.errors import IdentityError
from hansa_common.roster import Binding, Roster, SignedBinding, SignedRoster, sign_binding, sign_roster

BINDING_CHANGES: list[tuple[tuple[Any, ...], Any]] = [
    (("federation",), "other"),
    (("site",), "Site 2"),
    (("organisation", "name"), "Organisation 2"),
    (("keys", "signing"), "cd" * 32),
    (("keys", "agreement"), "cd" * 32),
    (("keys", "tls"), "cd" * 91),
    (("issued_at",), 1),
]
ROSTER_CHANGES: list[tuple[tuple[Any, ...], Any]] = [
    (("federation",), "other"),
    (("founder", "name"), "Another"),
    (("founder_is_coordinator",), True),
    (("coordinator", "certificate_authorities"), ["cd" * 32]),
    (("coordinator", "certificate_authorities"), ["ab" * 32, "cd" * 32]),
    (("members",), []),
    (("issued_at",), 1),
    (("version",), 3),
    (("previous",), "cd" * 32),
]


def roster_of(value: Any) -> SignedRoster:
    return SignedRoster.model_validate_json(SignedRoster.model_construct(**value).model_dump_json(warnings=False))


def test_a_binding_holds_as_signed_and_travels_as_json(cast: Any) -> None:
    signed = cast.member(1)
    signed.verify()
    back = SignedBinding.model_validate_json(signed.model_dump_json())
    assert back == signed
    back.verify()


@pytest.mark.parametrize(("path", "value"), BINDING_CHANGES, ids=lambda value: str(value)[:40])
def test_every_field_of_a_binding_is_signed(cast: Any, replace_in: Callable[..., Any], path: Any, value: Any) -> None:
    assert {path[0] for path, _ in BINDING_CHANGES} == set(Binding.model_fields) - {"format"}
    changed = Binding(**replace_in(cast.binding(1).model_dump(), path, value))
    with pytest.raises(IdentityError):
        SignedBinding(binding=changed, signature=cast.member(1).signature).verify()


def test_a_binding_signed_by_another_organisation_is_refused(cast: Any) -> None:
    with pytest.raises(IdentityError):
        sign_binding(cast.binding(1), cast.key(2)).verify()


def test_a_fingerprint_names_one_binding(cast: Any) -> None:
    assert cast.binding(1).fingerprint() == cast.binding(1).fingerprint()
    assert len({cast.binding(number).fingerprint() for number in range(1, 9)}) == 8


def test_a_history_of_rosters_is_accepted_step_by_step(cast: Any) -> None:
    first = cast.first()
    first.verify(cast.organisation(1).key)
    second = cast.next(first, 2, 1)
    second.verify_successor(first)
    assert [member.binding.site for member in second.roster.members] == ["Site 1", "Site 2"]
    third = SignedRoster.model_validate_json(cast.next(second, 2, 3).model_dump_json())
    third.verify_successor(second)
    assert third.roster.member("Site 3") == cast.binding(3)
    assert third.roster.member("Site 1") is None
    for name in ("federation", "founder", "coordinator", "founder_is_coordinator", "format"):
        assert getattr(third.roster, name) == getattr(first.roster, name)


def test_what_the_founder_said_of_itself_is_kept_by_the_next_version(cast: Any) -> None:
    assert cast.next(cast.first(founder_is_coordinator=True)).roster.founder_is_coordinator


@given(at=st.integers(0, 5), offered=st.integers(0, 5))
def test_only_the_direct_successor_is_accepted(cast: Any, at: int, offered: int) -> None:
    history = [cast.first()]
    for number in range(1, 6):
        history.append(cast.next(history[-1], number))
    if offered == at + 1:
        history[offered].verify_successor(history[at])
    else:  # T5: older, the same again, or one left out
        with pytest.raises(IdentityError, match="does not follow"):
            history[offered].verify_successor(history[at])


def test_a_version_number_is_not_left_out(cast: Any) -> None:
    first = cast.first()
    jump = first.roster.following(members=(), issued_at=1).model_copy(update={"version": 3})
    with pytest.raises(IdentityError, match="does not follow"):
        sign_roster(jump, cast.key(1)).verify_successor(first)


def test_a_version_of_another_history_is_refused(cast: Any) -> None:
    first = cast.first()
    ours, theirs = cast.next(first, 1), cast.next(first, 2)
    with pytest.raises(IdentityError, match="does not follow"):
        cast.next(theirs, 3).verify_successor(ours)


def test_a_version_of_another_federation_of_the_same_founder_is_refused(cast: Any) -> None:
    first = cast.first()
    moved = first.roster.following(members=(), issued_at=1).model_copy(update={"federation": "other"})
    with pytest.raises(IdentityError, match="does not follow"):
        sign_roster(moved, cast.key(1)).verify_successor(first)


def test_another_founder_is_refused_even_with_a_signature_that_holds(cast: Any) -> None:
    first = cast.first()
    taken = first.roster.following(members=(), issued_at=1).model_copy(update={"founder": cast.organisation(2)})
    with pytest.raises(IdentityError, match="another founder"):
        sign_roster(taken, cast.key(2)).verify_successor(first)
    with pytest.raises(IdentityError, match="signature"):
        sign_roster(first.roster.following(members=(), issued_at=1), cast.key(2)).verify_successor(first)
    with pytest.raises(IdentityError, match="another founder"):
        cast.first(founder=2).verify(cast.organisation(1).key)


@pytest.mark.parametrize(("path", "value"), ROSTER_CHANGES, ids=lambda value: str(value)[:40])
def test_every_field_of_a_roster_is_signed(cast: Any, replace_in: Callable[..., Any], path: Any, value: Any) -> None:
    assert {path[0] for path, _ in ROSTER_CHANGES} == set(Roster.model_fields) - {"format"}
    first = cast.first()
    second = cast.next(first, 1)
    content = replace_in(second.model_dump(mode="json"), ("roster", *path), value)
    if path == ("federation",):
        content["roster"]["members"] = []
    with pytest.raises(IdentityError):
        roster_of(content).verify_successor(first)


def test_a_member_whom_its_organisation_did_not_sign_is_refused(cast: Any) -> None:
    first = cast.first()
    forged = sign_binding(cast.binding(2), cast.key(1))  # the founder alone cannot make up another's site
    following = first.roster.following(members=[cast.member(1), forged], issued_at=1)
    with pytest.raises(IdentityError, match="binding"):
        sign_roster(following, cast.key(1)).verify_successor(first)


def test_members_are_named_once_in_order_and_belong_here(cast: Any) -> None:
    first = cast.first().roster
    one, two = cast.member(1), cast.member(2)
    stranger = sign_binding(cast.binding(3, federation="other"), cast.key(3))
    for members in ((two, one), (one, one), (stranger,)):
        with pytest.raises(ValidationError):
            Roster(**(first.model_dump() | {"members": tuple(members)}))


@pytest.mark.parametrize(("version", "previous"), [(1, "ab" * 32), (2, None), (0, None)])
def test_only_the_first_version_has_none_before(cast: Any, version: int, previous: str | None) -> None:
    with pytest.raises(ValidationError):
        cast.first(version=version, previous=previous)


def test_a_format_that_is_not_known_is_refused(cast: Any, replace_in: Callable[..., Any]) -> None:
    content = cast.first().model_dump(mode="json")
    for change in ({"format": 2}, {"threshold": 2}):
        with pytest.raises(ValidationError):
            roster_of(content | {"roster": content["roster"] | change})


def test_digests_of_versions_differ(cast: Any) -> None:
    rosters = [cast.first(), cast.first(founder=2), cast.first(founder_is_coordinator=True), cast.next(cast.first())]
    assert all(a.roster.digest() != b.roster.digest() for a, b in itertools.combinations(rosters, 2))
