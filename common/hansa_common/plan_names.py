"""Names in a plan: of sites and studies; and the ranges of its numbers."""

import re
from typing import Annotated

from pydantic import AfterValidator, Field

Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
Positive = Annotated[float, Field(gt=0.0)]


def _matching(pattern: str, words: str) -> AfterValidator:
    """Return a check of text against a pattern that explains itself in words."""

    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(f"found {text[:100]!r}; allowed is {words}.")
        return text

    return AfterValidator(check)


SiteName = Annotated[
    str, _matching(r"[^\x00-\x1f\x7f/\\]{1,64}", "1 to 64 characters, without slashes and control characters")
]
StudyName = Annotated[
    str,
    _matching("[a-z0-9][a-z0-9-]{0,62}", "1 to 63 lower-case letters, digits and hyphens, the first no hyphen"),
]
