"""A model of 10 million parameters, which is not trained, at 1, 10 and 100 sites: the server's memory must not grow.

The server is a process of its own with the real study, strategy, checkpoints and engine; its sites are in other
processes and answer at once (``echo_client``). Memory is ``VmHWM``: the most the process ever had, its code included.
"""

import json
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.process import PYTHON
from benchmarks.process import run as run_process
from benchmarks.table import print_table, verdict

SHAPE = (999, 1001)  # of an example; 10 classes: 10,000,000 parameters
ROUNDS = 3


def run(repeat: int) -> None:
    """Measure the server; ``repeat`` is how often, of which the largest memory counts."""
    rows = []
    for sites in (1, 10, 100):
        found = [echo(sites=sites, rounds=ROUNDS, shape=SHAPE) for _ in range(repeat if sites < 100 else 1)]
        model = 4 * found[0]["parameters"]  # bytes of float32
        peak, limit = max(figures["peak"] for figures in found), 2 * model + 200e6
        seconds = statistics.median(second for figures in found for second in figures["rounds"][1:])
        rows.append(
            [
                f"{sites}",
                f"{found[0]['before'] / 1e6:.0f} MB",
                f"{peak / 1e6:.0f} MB",
                f"{limit / 1e6:.0f} MB",
                verdict(peak <= limit),
                f"{seconds:.2f} s",
                f"{found[0]['round_bytes'] / seconds / 1e6:.0f} MB/s",
            ]
        )
    head = ["sites", "before the study", "peak", "goal: 2 models + 200 MB", "", "a round", "up and down"]
    print_table(head, rows)


def echo(*, sites: int, rounds: int, shape: Sequence[int]) -> dict[str, Any]:
    """Run the server once and return what it measured."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "figures.json"
        sides = [str(side) for side in shape]
        run_process([PYTHON, "-m", "benchmarks.server_process", str(sites), str(rounds), str(out), *sides])
        figures: dict[str, Any] = json.loads(out.read_text())
    return figures
