"""What is in deploy/ and in the operator's guide, as far as it can be checked without a container engine."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest
import typer

from hansa_common.cli import build
from hansa_server.federation.settings import ServerSettings

REPOSITORY = Path(__file__).parents[3]
GUIDE = (REPOSITORY / "docs" / "operations.md").read_text()
README = (REPOSITORY / "README.md").read_text()
COMPOSE = REPOSITORY / "deploy" / "compose.yaml"


def commands(text: str) -> list[str]:
    lines = [line[2:] for line in text.splitlines() if line.startswith("$ hansa ")]
    return lines + [found for found in re.findall(r"`(hansa [a-z]+ [^`]+)`", text) if "..." not in found]


@pytest.mark.parametrize("line", sorted({*commands(GUIDE), *commands(README)}))
def test_every_command_that_is_written_down_exists(line: str) -> None:
    root = typer.main.get_command(build())
    words = shlex.split(re.sub(r'"\$\(.*?\)"', "INVITATION", line), comments=True)[1:]
    context = click.Context(root, info_name="hansa")
    command: click.Command = root
    while isinstance(command, click.Group):
        found = command.get_command(context, words.pop(0))
        assert found is not None, line
        command, context = found, click.Context(found, parent=context)
    if words:
        command.make_context("hansa", words)


def test_the_compose_file_is_valid() -> None:
    checker = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(COMPOSE)]
    done = subprocess.run(checker, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("unit", ["hansa-server.service", "hansa-site.service"])
def test_the_units_are_valid(unit: str, tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    text = (REPOSITORY / "deploy" / "systemd" / unit).read_text().replace("/opt/hansa/bin/hansa", "/bin/true")
    (tmp_path / unit).write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(tmp_path / unit)], capture_output=True, text=True, check=False
    )
    assert [line for line in (done.stdout + done.stderr).splitlines() if unit in line] == []


@pytest.mark.parametrize("image", ["server", "site"])
def test_an_image_runs_without_root_and_without_a_compiler(image: str) -> None:
    text = (REPOSITORY / "deploy" / "images" / f"{image}.Dockerfile").read_text()
    last = text[text.rindex("\nFROM ") :]
    assert "\nUSER hansa\n" in last
    assert "pip install" not in last
    assert "apt-get" not in text
    assert "index-url" not in text


def test_the_guide_names_settings_that_exist() -> None:
    named = set(re.findall(r"`([a-z]+_(?:port|address|hours|seconds))`", GUIDE))
    assert named
    assert named <= set(ServerSettings.model_fields)
