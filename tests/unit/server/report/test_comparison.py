import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hansa_server.report.comparison import compare, compare_all, judge
from hansa_server.results import Results


def test_margin_is_the_interval_of_agresti_and_caffo() -> None:
    verdict, margin = judge(0.9, 0.8, 100)
    first, second = 91 / 102, 81 / 102
    expected = 1.96 * math.sqrt(first * (1 - first) / 102 + second * (1 - second) / 102)
    assert margin == pytest.approx(expected)
    assert verdict == "unclear"
    assert judge(0.9, 0.8, 200)[0] == "gains"
    assert judge(0.8, 0.9, 200)[0] == "loses"


def test_one_example_decides_nothing() -> None:
    assert judge(1.0, 0.0, 1)[0] == "unclear"


@given(st.floats(0, 1), st.floats(0, 1), st.integers(1, 10_000))
def test_exchanging_the_models_exchanges_the_verdict(first: float, second: float, num_examples: int) -> None:
    opposite: dict[str, str] = {"gains": "loses", "loses": "gains", "unclear": "unclear"}
    forth, back = judge(first, second, num_examples), judge(second, first, num_examples)
    assert back[0] == opposite[forth[0]]
    assert back[1] == pytest.approx(forth[1])


def test_simulated_equal_models_are_told_apart_rarely() -> None:
    import numpy as np

    rng = np.random.default_rng(0)
    right = rng.binomial(150, 0.8, size=(4_000, 2)) / 150
    wrong = sum(judge(float(first), float(second), 150)[0] != "unclear" for first, second in right)
    assert 0.03 < wrong / 4_000 < 0.065


def test_words_say_how_much_and_on_how_many(make_results: Callable[..., Results]) -> None:
    results = make_results(baselines=True)
    scores = results.sites[0].federated
    assert scores is not None
    changes = {"accuracy": 0.832, "num_examples": 10_000}

    def words(local: float) -> str:
        site = results.sites[0].model_copy(
            update={
                "federated": scores.model_copy(update=changes),
                "local_only": scores.model_copy(update={"accuracy": local}),
            }
        )
        comparison = compare(site)
        assert comparison is not None
        return comparison.words

    assert words(0.80) == "gains 3.2 points"
    assert words(0.85) == "loses 1.8 points"
    assert words(0.833) == "no clear difference on 10,000 test examples"


def test_sites_without_both_models_are_left_out(make_results: Callable[..., Results]) -> None:
    assert compare_all(make_results()) == ()
    results = make_results(baselines=True)
    assert [entry.site for entry in compare_all(results)] == [site.site for site in results.sites]
