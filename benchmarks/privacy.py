"""Noise: draws of the discrete Gaussian a second on one core, and the memory of ten million."""

import statistics
import time
import tracemalloc
from fractions import Fraction

from benchmarks.table import print_table, verdict
from hansa_common.privacy import DiscreteGaussian, Keystream

DRAWS = 10_000_000
GOAL = 2_000_000  # draws a second
DEVIATIONS = (10, 1_000, 100_000, 2**32)


def run(repeat: int) -> None:
    """Measure draws a second, set-up included, in chunks that are thrown away."""
    rows = []
    for deviation in DEVIATIONS:
        rates = []
        for _ in range(repeat):
            start = time.perf_counter()
            drawn = _draw(deviation)
            rates.append(drawn / (time.perf_counter() - start))
        rate = statistics.median(rates)
        rows.append([f"{deviation:,}", f"{rate / 1e6:.1f} M/s", f"{DRAWS / rate:.2f} s", verdict(rate >= GOAL)])
    print_table(["deviation", "draws", f"{DRAWS:,} draws", f"at least {GOAL / 1e6:.0f} M/s"], rows)
    tracemalloc.start()
    _draw(DEVIATIONS[-1])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    print(f"Memory while drawing {DRAWS:,}: at most {peak / 1e6:.1f} MB.")


def _draw(deviation: int) -> int:
    sampler = DiscreteGaussian(Fraction(deviation) ** 2, Keystream())
    return sum(chunk.size for chunk in sampler.chunks(DRAWS))
