import pytest
from hypothesis import given
from hypothesis import strategies as st

from hansa_server.report import notation


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (notation.percent(0.8312), "83.1%"),
        (notation.percent(None), "\N{EN DASH}"),
        (notation.points(0.032), "+3.2"),
        (notation.points(-0.004), "\N{MINUS SIGN}0.4"),
        (notation.points(-0.0001), "0.0"),
        (notation.loss(0.51234), "0.512"),
        (notation.loss(1e-7), "1.00e-07"),
        (notation.plural(1, "class"), "1 class"),
        (notation.plural(1200, "class"), "1,200 classes"),
        (notation.size(0), "0 B"),
        (notation.size(999), "999 B"),
        (notation.size(490_400), "490 kB"),
        (notation.size(1_961_600), "1.96 MB"),
        (notation.duration(0.42), "0.42 s"),
        (notation.duration(59.97), "1 min 00 s"),
        (notation.duration(185), "3 min 05 s"),
        (notation.duration(3599.7), "1 h 00 min"),
        (notation.moment("2026-03-14T10:15:02+01:00"), "2026-03-14 09:15 UTC"),
        (notation.moment("yesterday"), "yesterday"),
    ],
)
def test_figures_are_written_for_people(written: str, expected: str) -> None:
    assert written == expected


@given(st.sets(st.integers(1, 60)))
def test_ranges_name_every_number_once(numbers: set[int]) -> None:
    named: list[int] = []
    for part in notation.ranges(tuple(sorted(numbers))).split(", "):
        if part:
            first, _, last = part.partition("\N{EN DASH}")
            named += range(int(first), int(last or first) + 1)
    assert named == sorted(numbers)
