from collections.abc import Callable, Sequence

import pytest

from hansa_server.report.comparison import Comparison, Verdict
from hansa_server.report.narrative import headlines, latest_validation, result_sentences, verdicts
from hansa_server.results import Results

Make = Callable[..., Results]


def compared(given: Sequence[Verdict]) -> tuple[Comparison, ...]:
    return tuple(
        Comparison(
            site=f"s{index}",
            num_examples=10,
            federated=0.5,
            local_only=0.5,
            difference=0.0,
            margin=0.1,
            verdict=verdict,
            words="",
        )
        for index, verdict in enumerate(given)
    )


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (["gains"], "Against training alone, the site gains."),
        (["gains", "gains"], "Against training alone, every site gains."),
        (["gains", "loses"], "Against training alone, 1 of 2 sites gains and 1 loses."),
        (
            ["gains", "gains", "loses", "loses", "unclear"],
            "Against training alone, 2 of 5 sites gain, 2 lose and 1 shows no clear difference.",
        ),
        (["unclear"], "Against training alone, the site shows no clear difference."),
        (["unclear", "unclear"], "Against training alone, no site shows a clear difference."),
        (["loses", "unclear"], "Against training alone, 0 of 2 sites gain, 1 loses and 1 shows no clear difference."),
    ],
)
def test_verdicts_are_counted_in_words(given: Sequence[Verdict], sentence: str) -> None:
    assert verdicts(compared(given)) == sentence


def test_the_result_names_the_worst_site(make_results: Make) -> None:
    results = make_results()
    assert results.final is not None
    assert results.final.worst_site is not None
    sentence = result_sentences(results, ())
    assert "After 20 rounds at 4 sites" in sentence
    assert f"at {results.final.worst_site.site}, the site where it does worst." in sentence


def test_a_study_without_figures_says_what_is_known(make_results: Make) -> None:
    assert "No round was finished" in result_sentences(make_results(rounds=0, finished=False), ())
    stopped = make_results(rounds=1, finished=False)
    assert "before the first round" in result_sentences(stopped, ())
    assert latest_validation(stopped) == (0, stopped.rounds[0].incoming)
    assert [headline.figure for headline in headlines(stopped)] == ["\N{EN DASH}"] * 4


def test_the_fourth_figure_is_signed_points(make_results: Make) -> None:
    results = make_results(baselines=True)
    last = headlines(results)[3]
    assert last.unit == "points"
    assert last.figure.startswith(("+", "\N{MINUS SIGN}"))
    assert headlines(make_results())[3].command == "--baselines"
