import math
import xml.etree.ElementTree as ET
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hansa_server.report.charts.svg import drawing, nice_ticks, shorten, text, text_width


@given(st.floats(-1e6, 1e6), st.floats(0, 1e6))
def test_ticks_enclose_the_range_evenly_and_are_few(low: float, extent: float) -> None:
    high = low + extent
    if extent and extent < 1e-6 * max(abs(low), 1.0):
        return
    ticks = nice_ticks(low, high)
    slack = 1e-6 * (ticks[-1] - ticks[0])
    assert 2 <= len(ticks) <= 6
    assert ticks[0] <= low + slack
    assert high - slack <= ticks[-1]
    step = (ticks[-1] - ticks[0]) / (len(ticks) - 1)
    assert all(math.isclose(b - a, step, rel_tol=1e-6) for a, b in pairwise(ticks))
    leading = step / 10 ** math.floor(math.log10(step) + 1e-9)
    assert any(math.isclose(leading, nice, rel_tol=1e-6) for nice in (1, 2, 2.5, 5))


def test_ticks_refuse_what_is_no_range() -> None:
    with pytest.raises(RuntimeError):
        nice_ticks(0.0, math.nan)
    with pytest.raises(RuntimeError):
        nice_ticks(1.0, 0.0)


@given(st.text(), st.text())
def test_any_text_gives_well_formed_xml(content: str, label: str) -> None:
    root = ET.fromstring(drawing(label, 10, 10, text(content, 1, 2)))
    assert len(root) == 1


@given(st.text(min_size=1, max_size=60), st.floats(30, 300))
def test_shortened_text_fits(content: str, width: float) -> None:
    short = shorten(content, width)
    assert text_width(short) <= width
    assert short == content or "…" in short


def test_names_that_differ_at_their_ends_stay_apart_when_shortened() -> None:
    assert shorten("Universitätsklinikum 1", 90) != shorten("Universitätsklinikum 2", 90)
