from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hansa_common.errors import MessageError, PlanError
from hansa_common.privacy_plan import FEWEST_MASKED, MOST_MASKED
from hansa_common.secagg import Terms, Turn
from hansa_common.secagg.terms import FEWEST_SITES, MOST_SITES


def make(n: int = 4, **changes: Any) -> Terms:
    values: dict[str, Any] = {
        "plan_digest": "ab" * 32,
        "sites": tuple(f"{number:03}" for number in range(n)),
        "cohort": "changing",
        "ring_bits": 32,
    }
    return Terms(**(values | changes))


@pytest.mark.parametrize(
    ("n", "threshold", "colluders"), [(3, 3, 1), (4, 3, 1), (5, 4, 1), (6, 5, 1), (7, 5, 2), (10, 7, 3), (100, 67, 33)]
)
def test_threshold_and_colluders_follow_from_the_plans_list(n: int, threshold: int, colluders: int) -> None:
    terms = make(n)
    assert (terms.n, terms.threshold, terms.colluders, terms.minimum) == (n, threshold, colluders, threshold)
    assert make(n, cohort="fixed").required == n


@settings(max_examples=50, deadline=None, derandomize=True, database=None)
@given(st.integers(3, 100))
def test_two_thresholds_have_an_honest_site_in_common_and_colluders_alone_rebuild_nothing(n: int) -> None:
    terms = make(n)
    assert 2 * terms.threshold - n > terms.colluders
    assert terms.colluders < terms.threshold
    assert terms.minimum - terms.colluders >= 2  # a sum is over two honest sites at least


@pytest.mark.parametrize("n", [0, 1, 2, 101])
def test_too_few_and_too_many_sites_are_refused(n: int) -> None:
    with pytest.raises(PlanError, match=f"{n} sites") as refusal:
        make(n)
    assert refusal.value.path == "federation.sites"


@pytest.mark.parametrize(
    "changes",
    [
        {"sites": ("b", "a", "c")},
        {"sites": ("a", "a", "b")},
        {"plan_digest": "AB" * 32},
        {"plan_digest": ""},
        {"cohort": "sampled"},
        {"ring_bits": 24},
    ],
)
def test_what_is_no_plan_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        make(**changes)


@settings(max_examples=50, deadline=None, derandomize=True, database=None)
@given(n=st.integers(3, 100), data=st.data())
def test_a_set_of_sites_survives_as_a_bitmap(n: int, data: Any) -> None:
    terms = make(n)
    chosen = tuple(sorted(data.draw(st.sets(st.sampled_from(terms.sites)))))
    assert terms.unpack(terms.pack(chosen)) == chosen
    assert [terms.index(site) for site in terms.sites] == list(range(n))


@pytest.mark.parametrize("bitmap", [b"", b"\x10", b"\x80", b"\1\0"])
def test_a_bitmap_of_other_sites_is_refused(bitmap: bytes) -> None:
    with pytest.raises(MessageError):
        make(4).unpack(bitmap)
    with pytest.raises(MessageError, match="'x' is not a site"):
        make().pack(["x"])


@pytest.mark.parametrize("numbers", [(-1, 1), (0, 0), (2**32, 1), (0, 2**16)])
def test_a_turn_outside_its_range_is_refused(numbers: tuple[int, int]) -> None:
    with pytest.raises(MessageError):
        Turn(plan_digest="ab" * 32, round=numbers[0], attempt=numbers[1])


def test_contexts_differ_in_every_part() -> None:
    one = Turn(plan_digest="ab" * 32, round=1, attempt=2)
    others = [
        Turn(plan_digest="ac" * 32, round=1, attempt=2),
        Turn(plan_digest="ab" * 32, round=2, attempt=2),
        Turn(plan_digest="ab" * 32, round=1, attempt=1),
    ]
    contexts = [turn.context("pair", "a", "bc") for turn in (one, *others)]
    contexts += [one.context("pair", "ab", "c"), one.context("pair", "a", "bc", ""), one.context("pai", "ra", "bc")]
    assert len(set(contexts)) == len(contexts)
    assert one.context("box", "a", b"\1\2") == (
        b"\0\0\0\1\0\2" + b"\0\x12hansa-secagg-1/box" + b"\0\x20" + b"\xab" * 32 + b"\0\1a" + b"\0\2\1\2"
    )


def test_plans_allow_as_many_sites_as_masks_are_made_for() -> None:
    assert (FEWEST_MASKED, MOST_MASKED) == (FEWEST_SITES, MOST_SITES)
