"""The page on privacy names the test that guards each known mistake: those tests are there."""

import re
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]


def test_every_test_that_the_page_names_is_there() -> None:
    page = (REPOSITORY / "docs" / "privacy.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(test_\w+)`", page))
    tests = "\n".join(path.read_text() for path in (REPOSITORY / "tests" / "unit").rglob("test_*.py"))
    assert len(named) >= 15
    assert {name for name in named if f"def {name}(" not in tests} == set()
