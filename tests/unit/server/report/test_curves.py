import re
from collections.abc import Callable

from hansa_server.report import curves, notation
from hansa_server.results import Results

Make = Callable[..., Results]


def titles(svg: str) -> list[str]:
    return re.findall(r"<title>(.*?)</title>", svg, flags=re.DOTALL)


def test_a_model_is_drawn_at_the_rounds_it_was_trained_for(make_results: Make) -> None:
    results = make_results(rounds=4)
    assert results.final is not None
    shown = titles(curves.accuracy_curves(results, 400))
    assert [title.splitlines()[0] for title in shown] == [f"rounds of training {number}" for number in range(5)]
    for number, entry in enumerate(results.rounds):
        assert f"Weighted mean {notation.percent(entry.incoming.weighted_mean_accuracy)}" in shown[number]
    assert f"Worst site {notation.percent(results.final.validation.worst_site_accuracy)} (" in shown[4]


def test_training_loss_belongs_to_the_model_that_left_the_round(make_results: Make) -> None:
    results = make_results(rounds=4)
    shown = titles(curves.loss_curves(results, 400))
    assert "Training" not in shown[0]
    assert f"Training {notation.loss(results.rounds[0].train_loss)}" in shown[1]


def test_the_slowest_site_is_named(make_results: Make) -> None:
    results = make_results(rounds=1)
    slowest = max(results.rounds[0].sites, key=lambda site: site.seconds)
    assert (
        f"Slowest site {notation.duration(slowest.seconds)} ({slowest.site})"
        in titles(curves.seconds_curve(results, 400))[0]
    )


def test_payload_is_drawn_both_ways(make_results: Make) -> None:
    shown = titles(curves.bytes_curve(make_results(rounds=2, missing={2: {"Visby": "late"}}), 400))
    assert "From the sites 1.47 MB" in shown[1]
    assert "To the sites 1.96 MB" in shown[1]
