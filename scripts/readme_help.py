#!/usr/bin/env python3
"""Write the output of ``hansa --help`` into the READMEs, between ``<!-- help: COMMAND -->`` and ``<!-- /help -->``.

Without an option the files are rewritten in place; with ``--check`` nothing is written, and the exit code is 1 where a
block differs from what the command prints.
"""

import argparse
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
READMES = (REPOSITORY / "README.md", REPOSITORY / "README.zh.md")

_BLOCK = re.compile(r"(<!-- help: (?P<command>[a-z -]+) -->\n).*?(<!-- /help -->)", re.DOTALL)
_FIXED = {"COLUMNS": "100", "TERM": "dumb", "NO_COLOR": "1"}  # one width and no colour on every machine
_COLOURED = ("FORCE_COLOR", "PY_COLORS", "GITHUB_ACTIONS", "TERMINAL_WIDTH")  # these would win over the ones above


def read_help(command: str) -> str:
    """Return what ``COMMAND --help`` prints.

    Raises:
        subprocess.CalledProcessError: There is no such command.
    """
    program, *arguments = shlex.split(command)
    environment = {key: value for key, value in os.environ.items() if key not in _COLOURED} | _FIXED
    return subprocess.run(  # noqa: S603 - the command is written in this repository's README
        [Path(sys.executable).with_name(program), *arguments, "--help"],
        env=environment | {"PYTHONIOENCODING": "utf-8"},
        stdout=subprocess.PIPE,
        encoding="utf-8",
        check=True,
    ).stdout


def fill(text: str) -> str:
    """Return the text with each help block replaced by what its command prints now."""
    return _BLOCK.sub(lambda block: f"{block[1]}```text\n{read_help(block['command'])}```\n{block[3]}", text)


def main() -> int:
    """Rewrite or check the READMEs; return the exit code."""
    parser = argparse.ArgumentParser(description="Write the output of hansa --help into the READMEs.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 where a block differs")
    check = parser.parse_args().check
    differing = []
    for path in READMES:
        before = path.read_text(encoding="utf-8")
        after = fill(before)
        if after == before:
            continue
        differing.append(path.name)
        if not check:
            path.write_text(after, encoding="utf-8")
    if check and differing:
        sys.stderr.write(f"{', '.join(differing)}: a help block differs; run python scripts/readme_help.py\n")
    return int(check and bool(differing))


if __name__ == "__main__":
    sys.exit(main())
