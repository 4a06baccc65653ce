from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from hansa_common.errors import HansaError, IdentityError, UsageError
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
