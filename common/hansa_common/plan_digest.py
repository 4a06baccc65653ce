"""What of a plan its digest covers: everything, but what is younger than the digests of plans without it."""

import functools
from collections.abc import Iterable
from typing import Any, Final

_YOUNGER: Final = (
    ("model", "backbone"),
    ("model", "lora"),
    ("data", "target"),
    ("data", "text"),
    ("data", "windows"),
    ("preprocessing", "vocabulary"),
    ("preprocessing", "condition"),
    ("transport", "fraction"),
    ("privacy", "differential", "adaptive"),
    ("personalisation",),
)
"""Keys that are younger than what they stand in, and are left out of a plan where they are ``null``."""


def digested(values: dict[str, Any], *, unset: Iterable[str], counts_decisions: bool) -> dict[str, Any]:
    """Take out of the approved part of a plan, as JSON has it, what would change the digest of an older plan.

    Args:
        values: The plan, which is changed.
        unset: Sections that are younger than the others, and as they are where a plan leaves them out.
        counts_decisions: The plan names costs or groups.
    """
    for key in unset:
        del values[key]
    for *path, key in _YOUNGER:
        section = functools.reduce(lambda found, name: found.get(name) or {}, path, values)
        if section.get(key, key) is None:
            del section[key]
    if values["data"]["kind"] == "array" and values["data"]["standardise"] == "none":
        del values["data"]["standardise"]
    evaluation = values["evaluation"]
    values["evaluation"] = {key: value for key, value in evaluation.items() if value is not None or key == "cost"}
    if not counts_decisions:
        for key in ("cost", "groups", "minimum_group"):
            del values["evaluation"][key]
    return values
