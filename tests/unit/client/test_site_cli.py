"""``hansa site`` with a folder that is no site's: only its name is wrong, nothing is to be restored or left."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from hansa_client.site_cli import app
from hansa_common.errors import UsageError


@pytest.mark.parametrize("arguments", [("approve", "digits"), ("review", "digits"), ("models",), ("log",), ("status",)])
def test_a_folder_that_is_no_sites_is_told(arguments: tuple[str, ...], tmp_path: Path) -> None:
    result = CliRunner().invoke(app, [*arguments, "--folder", str(tmp_path / "typo")])
    assert isinstance(result.exception, UsageError)
    assert "is no site that has joined" in result.exception.message
    assert "--folder" in result.exception.advice
    assert not (tmp_path / "typo").exists()
