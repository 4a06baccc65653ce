"""The few elements of SVG that the charts are made of, escaped, as strings.

Charts carry classes and no colours: ``charts.css`` gives them their colours, light and dark. Lengths are pixels of the
chart at its natural size.
"""

import html
import math
import re
import unicodedata

FONT_SIZE = 12.0  # px, as in charts.css
_ILLEGAL = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # XML 1.0, clause 2.2
Attribute = str | float


def escape(text: str) -> str:
    """Escape text for XML and HTML; a character that XML 1.0 does not allow becomes U+FFFD."""
    return html.escape(_ILLEGAL.sub("\ufffd", text))


def element(tag: str, *children: str, **attributes: Attribute) -> str:
    """Return an element; children are markup already, attributes are escaped; ``text_anchor`` is ``text-anchor``."""
    pairs = "".join(f' {_name(name)}="{_value(value)}"' for name, value in attributes.items())
    return f"<{tag}{pairs}>{''.join(children)}</{tag}>" if children else f"<{tag}{pairs}/>"


def text(content: str, x: float, y: float, **attributes: Attribute) -> str:
    """Return a line of text whose baseline starts (or ends, or has its middle) at ``x, y``."""
    return element("text", escape(content), x=x, y=y, **attributes)


def title(content: str) -> str:
    """Return what a pointer that rests on the parent element shows."""
    return element("title", escape(content))


def drawing(label: str, width: float, height: float, *children: str, style: str = "") -> str:
    """Return a whole picture with a label for those who cannot see it.

    Args:
        label: What the picture shows, one sentence.
        width: Natural width.
        height: Natural height.
        children: Its elements.
        style: A style sheet to put inside, which makes it a file of its own.
    """
    sheet = (element("style", style), element("rect", class_="page", width=width, height=height)) if style else ()
    return element(
        "svg",
        *sheet,
        *children,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {_value(width)} {_value(height)}",
        width=width,
        height=height,
        class_="chart",
        role="img",
        aria_label=label,
    )


def text_width(content: str, font_size: float = FONT_SIZE) -> float:
    """Estimate how wide a text is at most: there is no font to measure here, and DejaVu Sans is a wide one."""
    return font_size * sum(_em(char) for char in content)


def _em(char: str) -> float:
    """Width of a character in font sizes."""
    if char in "mwMW%@" or unicodedata.east_asian_width(char) in "WF":
        return 1.0
    if char in "iIjl.,:;'|! ":
        return 0.34
    if char in "frt()-":
        return 0.43
    return 0.78 if char.isupper() else 0.64


def shorten(content: str, width: float) -> str:
    """Cut out the middle of a text so that it fits into ``width``: names often differ at their ends."""
    if text_width(content) <= width:
        return content
    kept = len(content) - 1
    while kept > 1 and text_width(_without_middle(content, kept)) > width:
        kept -= 1
    return _without_middle(content, kept)


def _without_middle(content: str, kept: int) -> str:
    tail = kept // 2
    return f"{content[: kept - tail].rstrip()}…{content[len(content) - tail :].lstrip()}"


def nice_ticks(low: float, high: float, *, most: int = 6) -> tuple[float, ...]:
    """Return at most ``most`` evenly spaced round numbers (1, 2, 2.5 or 5 times a power of ten) that enclose a range.

    Raises:
        RuntimeError: The range is not finite or upside down.
    """
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise RuntimeError(f"No ticks for {low}..{high}.")
    if high == low:
        margin = abs(low) / 2 or 0.5
        low, high = low - margin, high + margin
    exponent = math.floor(math.log10((high - low) / most))
    for factor in (1, 2, 2.5, 5, 10, 20, 25, 50):
        step = factor * 10.0**exponent
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        if last - first < most:
            break
    return tuple(round(index * step, 12 - min(exponent, 0)) for index in range(first, last + 1))


def _name(name: str) -> str:
    return name.rstrip("_").replace("_", "-")


def _value(value: Attribute) -> str:
    return escape(value) if isinstance(value, str) else f"{value:.2f}".rstrip("0").rstrip(".")
