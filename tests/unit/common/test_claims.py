import pytest

from hansa_common.claims import ISOLATED, hides
from hansa_common.secagg.terms import colluders, threshold


@pytest.mark.parametrize(("sites", "least", "most"), [(3, 3, 1), (4, 3, 1), (10, 7, 3), (100, 67, 33)])
def test_threshold_and_colluders_follow_from_the_number_of_sites(sites: int, least: int, most: int) -> None:
    assert (threshold(sites), colluders(sites)) == (least, most)
    assert 2 * threshold(sites) - sites > colluders(sites)  # two sets that agreed share an honest site


def test_the_claim_counts_the_sites() -> None:
    assert hides(1).endswith("from the server and up to 1 other site.")
    assert hides(3).endswith("from the server and up to 3 other sites.")


def test_what_a_changing_cohort_costs_is_said_to_whom_it_concerns() -> None:
    text = "a dishonest server can isolate your update by two rounds that differ by one site"
    assert ISOLATED.format(whose="your") == text
