"""``hansa server`` where no coordinator runs: the founder's passphrase, and a folder that is none."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from hansa_common.errors import HansaError, UsageError
from hansa_common.organisation import OrganisationFolder
from hansa_server.server_cli import app

AUTHORITYS, FOUNDERS = "of the authority", "of the founder"


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if isinstance(result.exception, HansaError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def init(folder: Path) -> str:
    return run("init", "--name", "thorax", "--host", "127.0.0.1", "--founder-is-coordinator", "--folder", folder)


def test_the_founders_key_has_the_passphrase_that_admit_looks_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HANSA_PASSPHRASE", AUTHORITYS)
    monkeypatch.setenv("HANSA_ORG_PASSPHRASE", FOUNDERS)
    said = init(tmp_path / "both")
    founder = OrganisationFolder(tmp_path / "both" / "founder")
    founder.unlock(FOUNDERS.encode())
    with pytest.raises(UsageError, match="does not open"):
        founder.unlock(AUTHORITYS.encode())
    assert "the passphrase in HANSA_ORG_PASSPHRASE" in said


@pytest.mark.parametrize("other", [None, ""])
def test_without_one_of_its_own_the_founders_key_has_the_authoritys(
    other: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HANSA_PASSPHRASE", AUTHORITYS)
    monkeypatch.delenv("HANSA_ORG_PASSPHRASE", raising=False)
    if other is not None:
        monkeypatch.setenv("HANSA_ORG_PASSPHRASE", other)
    assert "the same passphrase" in init(tmp_path / "one")
    OrganisationFolder(tmp_path / "one" / "founder").unlock(AUTHORITYS.encode())


def test_nothing_is_made_where_the_founders_passphrase_is_too_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HANSA_PASSPHRASE", "short")
    monkeypatch.delenv("HANSA_ORG_PASSPHRASE", raising=False)
    with pytest.raises(UsageError, match="at least 8 characters"):
        init(tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_sites_says_that_no_server_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HANSA_PASSPHRASE", AUTHORITYS)
    init(tmp_path / "stopped")
    assert "No server runs on" in run("sites", "--folder", tmp_path / "stopped")


@pytest.mark.parametrize("command", ["status", "sites", "logs"])
def test_a_folder_that_is_none_is_told(command: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is no federation's folder"):
        run(command, "--folder", tmp_path / "typo")
