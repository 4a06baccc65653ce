"""What every page of figures holds to, for those who hear it or walk it by keyboard."""

import re
from itertools import pairwise


def assert_accessible(page: str) -> None:
    """Fail where headings skip a level, a heading of a table has no scope, or what scrolls cannot have the focus."""
    levels = [int(level) for level in re.findall(r"<h([1-6])\b", page)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(later - earlier <= 1 for earlier, later in pairwise(levels)), levels
    assert not re.findall(r"<th(?![^>]*scope=)[^>]*>", page.replace("<thead>", ""))
    assert not re.findall(r'<div class="scroll[^"]*"(?![^>]*tabindex)[^>]*>', page)
    assert not re.findall(r"<img(?![^>]*alt=\"[^\"])[^>]*>", page)
    assert not re.findall(r"<svg(?![^>]*aria-label=\"[^\"])[^>]*>", page)
