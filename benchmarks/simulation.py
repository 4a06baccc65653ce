"""Ten institutions, the shared CNN: Hansa beside Flower's own simulation and beside the training alone.

Sites have 500 images each: 400 to train, 50 to validate in each round, 50 that only Hansa evaluates, once at the end.
"""

import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks import contenders, studies
from benchmarks.contenders import Timed
from benchmarks.table import print_table, times, verdict

ROUNDS = 5


def run(repeat: int) -> None:
    """Measure in turn, then once more with memory sampled."""
    with tempfile.TemporaryDirectory() as folder:
        task = studies.images(Path(folder), sites=10, per_site=500, rounds=ROUNDS)
        systems: dict[str, Callable[[bool], Timed]] = {
            "flower": lambda memory: contenders.flower(task, rounds=ROUNDS, sample_memory=memory),
            "hansa": lambda memory: contenders.hansa(task, sample_memory=memory),
            "bare": lambda memory: contenders.bare_loop(task, sample_memory=memory),
        }
        found: dict[str, list[Timed]] = {name: [] for name in systems}
        for _ in range(repeat):
            for name, start in systems.items():
                found[name].append(start(False))
        memory = {name: start(True) for name, start in systems.items()}
    _print(found, memory)


def _print(found: dict[str, list[Timed]], memory: dict[str, Timed]) -> None:
    titles = {
        "flower": "Flower 1.41, Ray simulation",
        "hansa": "hansa simulate",
        "bare": "the same training, no system",
    }
    whole = {name: _median([timed.finished.seconds for timed in runs]) for name, runs in found.items()}
    steady = {name: _median([timed.steady_round for timed in runs]) for name, runs in found.items()}
    first = {name: _median([timed.rounds[0] for timed in runs]) for name, runs in found.items()}
    runs = len(found["hansa"])
    print_table(
        [f"{ROUNDS} rounds, medians of {runs} runs", "whole process", "first round", "later rounds", "PSS", "RSS"],
        [
            [
                title,
                f"{whole[name]:.2f} s",
                f"{first[name]:.2f} s",
                f"{steady[name]:.3f} s",
                f"{memory[name].finished.peak_pss / 1e6:,.0f} MB",
                f"{memory[name].finished.peak_rss / 1e6:,.0f} MB",
            ]
            for name, title in titles.items()
        ],
    )
    faster, round_faster = whole["flower"] / whole["hansa"], steady["flower"] / steady["hansa"]
    overhead, pss = steady["hansa"] / steady["bare"], memory["hansa"].finished.peak_pss / 1e9
    print_table(
        ["ratio", "found", "goal", ""],
        [
            ["whole process, Flower / Hansa", times(faster), "2.5 x", verdict(faster >= 2.5)],
            ["later rounds, Flower / Hansa", times(round_faster), "1.8 x", verdict(round_faster >= 1.8)],
            ["later rounds, Hansa / no system", times(overhead), "at most 1.15 x", verdict(overhead <= 1.15)],
            ["whole process, Hansa / no system", times(whole["hansa"] / whole["bare"]), "", ""],
            ["memory of Hansa's processes, PSS", f"{pss:.2f} GB", "at most 1.5 GB", verdict(pss <= 1.5)],
        ],
    )


def _median(values: Sequence[float]) -> float:
    return statistics.median(values)
