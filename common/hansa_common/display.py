"""Text of others, made safe to show: a terminal obeys what it is sent, and so may hide what a person must read."""

import unicodedata

_UNSAFE = ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")  # Unicode: control, format (also text direction), surrogates, private


def printable(text: str) -> str:
    """Return a text with everything that a terminal would obey, or nobody would see, replaced by U+FFFD."""
    return "".join("\ufffd" if unicodedata.category(character) in _UNSAFE else character for character in text)
