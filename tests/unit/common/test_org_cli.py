from pathlib import Path
from typing import Any

import pytest
from cryptography.x509 import load_pem_x509_certificate
from tests.unit.client.site_cast import Root
from typer.testing import CliRunner

from hansa_common.errors import HansaError, IdentityError, UsageError
from hansa_common.identity import fingerprint, pin_of
from hansa_common.org_cli import app
from hansa_common.organisation import (
    Applications,
    BindingRequest,
    OrganisationFolder,
    RosterRequest,
    read_document,
    write_document,
)
from hansa_common.roster import CoordinatorPins, Roster, SignedBinding, SignedRoster, sign_roster


@pytest.fixture(autouse=True)
def passphrase(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HANSA_ORG_PASSPHRASE", "correct horse")


def run(*arguments: object, answer: str = "") -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], input=answer)
    if isinstance(result.exception, HansaError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture
def founder(tmp_path: Path) -> Path:
    run("init", "--name", "Founder", "--folder", tmp_path / "founder")
    return tmp_path / "founder"


@pytest.fixture
def first(founder: Path, tmp_path: Path) -> Path:
    roster = Roster(
        federation="thorax",
        version=1,
        founder=OrganisationFolder(founder).organisation,
        founder_is_coordinator=True,
        coordinator=CoordinatorPins(certificate_authorities=("ab" * 32,)),
        issued_at=1,
    )
    write_document(tmp_path / "roster-1-request.json", RosterRequest(roster=roster))
    output = run("sign", tmp_path / "roster-1-request.json", "--folder", founder, "--yes")
    assert "lies on the coordinator's machine" in output
    return tmp_path / "roster-1-signed.json"


def test_a_binding_request_is_shown_confirmed_and_signed(founder: Path, tmp_path: Path, cast: Any) -> None:
    request = BindingRequest(federation="thorax", site="Site 1", keys=cast.node(1).public())
    write_document(tmp_path / "binding-request.json", request)
    output = run("sign", tmp_path / "binding-request.json", "--folder", founder, answer="y\n")
    assert request.fingerprint() in output
    assert "Founder says: this is our node Site 1 in thorax" in output
    signed = read_document(tmp_path / "binding-signed.json", SignedBinding)
    signed.verify()
    assert signed.binding.keys == request.keys


def test_without_a_yes_nothing_is_signed(founder: Path, tmp_path: Path, cast: Any) -> None:
    request = BindingRequest(federation="thorax", site="Site 1", keys=cast.node(1).public())
    write_document(tmp_path / "binding-request.json", request)
    arguments = ["sign", str(tmp_path / "binding-request.json"), "--folder", str(founder)]
    assert CliRunner().invoke(app, arguments, input="n\n").exit_code == 1
    assert not (tmp_path / "binding-signed.json").exists()


def test_admit_and_expel_sign_the_versions_that_follow(founder: Path, first: Path, tmp_path: Path, cast: Any) -> None:
    write_document(tmp_path / "waiting.json", Applications(federation="thorax", applications=(cast.member(1),)))
    second, third = tmp_path / "second.json", tmp_path / "third.json"
    common = ("--folder", founder, "--yes")
    output = run(
        "admit", "Site 1", "--applications", tmp_path / "waiting.json", "--roster", first, "--out", second, *common
    )
    assert cast.binding(1).fingerprint() in output
    run("expel", "Site 1", "--roster", second, "--out", third, *common)
    rosters = [read_document(path, SignedRoster) for path in (first, second, third)]
    rosters[1].verify_successor(rosters[0])
    rosters[2].verify_successor(rosters[1])
    assert rosters[1].roster.member("Site 1") == cast.binding(1)
    assert rosters[2].roster.members == ()


@pytest.fixture
def authorities(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / "a.crt", tmp_path / "b.crt"]
    for path in paths:
        path.write_text(Root().pem)
    return paths


def test_pin_and_unpin_sign_rosters_that_follow_with_the_same_members(
    founder: Path, first: Path, tmp_path: Path, authorities: list[Path]
) -> None:
    second, third = tmp_path / "second.json", tmp_path / "third.json"
    common = ("--folder", founder, "--yes")
    before = read_document(first, SignedRoster)
    pins = [pin_of(load_pem_x509_certificate(path.read_bytes())) for path in authorities]
    output = run("pin", authorities[0], "--roster", first, "--out", second, *common)
    assert fingerprint(pins[0]) in output
    with_both = read_document(second, SignedRoster)
    with_both.verify_successor(before)
    assert with_both.roster.coordinator.certificate_authorities == ("ab" * 32, pins[0])
    assert with_both.roster.members == before.roster.members
    for path, reason in ((authorities[0], "already"), (authorities[1], "being replaced")):
        with pytest.raises(UsageError, match=reason):
            run("pin", path, "--roster", second, *common)
    with pytest.raises(UsageError, match="does not have"):
        run("unpin", authorities[1], "--roster", second, *common)
    run("unpin", authorities[0], "--roster", second, "--out", third, *common)
    read_document(third, SignedRoster).verify_successor(with_both)
    with pytest.raises(UsageError, match="holds no certificate"):
        run("pin", first, "--roster", first, *common)


def test_the_only_authority_is_not_taken_out(founder: Path, tmp_path: Path, authorities: list[Path]) -> None:
    pins = CoordinatorPins(certificate_authorities=(pin_of(load_pem_x509_certificate(authorities[0].read_bytes())),))
    roster = Roster(
        federation="thorax",
        version=1,
        founder=OrganisationFolder(founder).organisation,
        coordinator=pins,
        issued_at=1,
    )
    signed = sign_roster(roster, OrganisationFolder(founder).unlock(b"correct horse"))
    write_document(tmp_path / "only.json", signed)
    with pytest.raises(UsageError, match="only authority"):
        run("unpin", authorities[0], "--roster", tmp_path / "only.json", "--folder", founder, "--yes")


def test_upon_a_roster_that_was_changed_nothing_is_signed(
    founder: Path, first: Path, tmp_path: Path, authorities: list[Path], cast: Any
) -> None:
    """Else a coordinator could have its own members signed with the pin."""
    signed = read_document(first, SignedRoster)
    changed = signed.model_copy(update={"roster": signed.roster.model_copy(update={"members": (cast.member(1),)})})
    write_document(tmp_path / "changed.json", changed)
    out = tmp_path / "next.json"
    with pytest.raises(IdentityError):
        run("pin", authorities[0], "--roster", tmp_path / "changed.json", "--out", out, "--folder", founder, "--yes")
    assert not out.exists()


def test_an_application_that_its_organisation_did_not_sign_is_not_admitted(
    founder: Path, first: Path, tmp_path: Path, cast: Any
) -> None:
    forged = cast.member(1).model_copy(update={"signature": cast.member(2).signature})
    write_document(tmp_path / "waiting.json", Applications(federation="thorax", applications=(forged,)))
    out = tmp_path / "second.json"
    with pytest.raises(IdentityError):
        run(
            "admit",
            "Site 1",
            "--applications",
            tmp_path / "waiting.json",
            "--roster",
            first,
            "--out",
            out,
            "--folder",
            founder,
            "--yes",
        )
    assert not out.exists()


def test_only_the_founder_signs_the_next_roster(tmp_path: Path, founder: Path, cast: Any) -> None:
    foreign = sign_roster(cast.first().roster, cast.key(1))
    write_document(tmp_path / "roster.json", foreign)
    write_document(tmp_path / "waiting.json", Applications(federation="thorax", applications=(cast.member(1),)))
    with pytest.raises(UsageError, match="did not found"):
        run(
            "admit",
            "Site 1",
            "--applications",
            tmp_path / "waiting.json",
            "--roster",
            tmp_path / "roster.json",
            "--folder",
            founder,
            "--yes",
        )


def test_who_has_not_enrolled_is_not_admitted(founder: Path, first: Path, tmp_path: Path, cast: Any) -> None:
    write_document(tmp_path / "waiting.json", Applications(federation="thorax", applications=(cast.member(1),)))
    with pytest.raises(UsageError, match="Waiting: Site 1"):
        run(
            "admit",
            "Site 9",
            "--applications",
            tmp_path / "waiting.json",
            "--roster",
            first,
            "--folder",
            founder,
            "--yes",
        )
