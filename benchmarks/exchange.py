"""One exchange with nothing to train: four sites, a model of the shared CNN's 122,570 parameters."""

import statistics

from benchmarks.server_memory import echo
from benchmarks.table import print_table

SITES, ROUNDS = 4, 100
SHAPE = (12_256,)  # of an example; 10 classes: 122,570 parameters


def run(repeat: int) -> None:
    """Measure rounds, their checkpoint included."""
    rounds = [second for _ in range(repeat) for second in echo(sites=SITES, rounds=ROUNDS, shape=SHAPE)["rounds"][1:]]
    milliseconds = sorted(1e3 * second for second in rounds)
    print_table(
        [f"{SITES} sites, {len(rounds)} rounds", "median", "95th percentile"],
        [
            [
                "a round with its checkpoint",
                f"{statistics.median(milliseconds):.1f} ms",
                f"{milliseconds[int(0.95 * len(milliseconds))]:.1f} ms",
            ]
        ],
    )
