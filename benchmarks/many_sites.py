"""1,000 sites, ten a round, logistic regression: what a round costs where training costs next to nothing.

Sites have 60 examples each: 48 to train, 6 to validate, 6 that only Hansa evaluates, at the end, at all 1,000 sites.
In both systems the ten sites of a round validate the incoming or the new model; Flower takes a second exchange for it.
"""

import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks import contenders, studies
from benchmarks.contenders import Timed
from benchmarks.table import print_table, times, verdict

ROUNDS = 100
FLOWER_ROUNDS = 20


def run(repeat: int) -> None:
    """Measure in turn."""
    with tempfile.TemporaryDirectory() as folder:
        task = studies.vectors(Path(folder), sites=1000, per_site=60, rounds=ROUNDS, per_round=10)
        found = [(contenders.flower(task, rounds=FLOWER_ROUNDS), contenders.hansa(task)) for _ in range(repeat)]

    def median(figure: Callable[[Timed], float]) -> tuple[float, float]:
        flower, hansa = zip(*((figure(flower), figure(hansa)) for flower, hansa in found), strict=True)
        return statistics.median(flower), statistics.median(hansa)

    whole = median(lambda timed: timed.finished.seconds)
    steady = median(lambda timed: timed.steady_round)
    training = median(lambda timed: timed.steady_training)
    titles = (f"Flower 1.41, Ray simulation, {FLOWER_ROUNDS} rounds", f"hansa simulate, {ROUNDS} rounds")
    print_table(
        [f"medians of {repeat} runs", "whole process", "a round", "without Flower's validation"],
        [
            [title, f"{process:.2f} s", f"{1e3 * a_round:.1f} ms", f"{1e3 * only_training:.1f} ms"]
            for title, process, a_round, only_training in zip(titles, whole, steady, training, strict=True)
        ],
    )
    ratio = steady[0] / steady[1]
    overall = (whole[0] / FLOWER_ROUNDS) / (whole[1] / ROUNDS)
    print_table(
        ["ratio", "found", "goal", ""],
        [
            ["rounds a second, Hansa / Flower", times(ratio), "10 x", verdict(ratio >= 10)],
            ["the same without Flower's validation", times(training[0] / training[1]), "", ""],
            ["the same over the whole process", times(overall), "", ""],
        ],
    )
