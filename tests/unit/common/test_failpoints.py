import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hansa_common import failpoints
from hansa_common.errors import UsageError

REPOSITORY = Path(__file__).parents[3]
_LOOP = "from hansa_common.failpoints import reach\nfor hit in (1, 2, 3):\n    print(hit, flush=True)\n    reach('{}')"


def run(name: str, armed: str) -> tuple[int, str]:
    environment = {failpoints.VARIABLE: armed, "PYTHONPATH": str(REPOSITORY / "common")}
    done = subprocess.run(
        [sys.executable, "-c", _LOOP.format(name)], env=environment, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout + done.stderr


def test_a_process_dies_at_its_hit_once(tmp_path: Path) -> None:
    armed = f"site.send@2:{tmp_path / 'mark'}"
    assert run("site.send", armed) == (-signal.SIGKILL, "1\n2\n")
    assert (tmp_path / "mark").exists()
    assert run("site.send", armed) == (0, "1\n2\n3\n")


def test_another_place_is_passed_and_a_misspelt_one_is_a_bug(tmp_path: Path) -> None:
    armed = f"site.send@1:{tmp_path / 'mark'}"
    assert run("site.train", armed)[0] == 0
    code, output = run("site.sent", armed)
    assert (code, "RuntimeError: There is no fail point 'site.sent'." in output) == (1, True)
    assert not (tmp_path / "mark").exists()


def test_several_are_armed_together_and_off_by_default(tmp_path: Path) -> None:
    armed = f"site.send@9:{tmp_path / 'a'},journal.append@1:{tmp_path / 'b'},"
    assert run("journal.append", armed) == (-signal.SIGKILL, "1\n")
    assert run("journal.append", "")[0] == 0
    assert failpoints._read("") == {}


@pytest.mark.parametrize(
    "text",
    [
        "site.sent@1:/m",
        "site.send",
        "site.send@1",
        "site.send@1:",
        "site.send@:/m",
        "site.send@0:/m",
        "site.send@²:/m",
        "site.send@x:/m",
        "site.send@1!:/m",
        "file.sync@!:/m",
        "site.send@1:/m,site.send@2:/n",
    ],
)
def test_what_would_test_nothing_is_an_error(text: str) -> None:
    with pytest.raises(UsageError, match=re.escape(failpoints.VARIABLE)):
        failpoints._read(text)


def test_names_are_registered_once() -> None:
    assert len(set(failpoints.NAMES)) == len(failpoints.NAMES)


def test_every_place_in_the_source_is_registered() -> None:
    found = {
        name
        for part in ("common", "client", "server")
        for file in (REPOSITORY / part).rglob("*.py")
        for name in re.findall(r"\breach\(\s*\"([^\"]+)\"", file.read_text())
    }
    assert "file.before-rename" in found
    assert found <= set(failpoints.NAMES)
