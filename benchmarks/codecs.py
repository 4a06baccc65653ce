"""How small updates may get before the model suffers: MNIST, a perceptron of 159,010 parameters, through the engine.

Ten sites share the bundled 5,000 images by Dir(.5); 40 rounds of one epoch of SGD (rate 0.1, batches of 32). Bytes are
those of whole messages, headers and counts included; accuracy is that of the last model on all test examples.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Final

from benchmarks.table import print_table, times, verdict
from hansa_common.plan import StudyPlan, parse_plan
from hansa_server.engines.engine import Machine
from hansa_server.progress import Quiet
from hansa_server.simulation import simulate
from hansa_server.store import RunFolder

_SITES: Final = 10
_ROUNDS: Final = 40
_TRANSPORTS: Final[dict[str, tuple[dict[str, Any], str]]] = {
    "float32": ({}, "92.29, 1x"),
    "float32, zstd": ({"compress": "zstd"}, ""),
    "bf16": ({"codec": "bf16"}, "92.31, 2x"),
    "int8": ({"codec": "int8"}, "92.29, 4x"),
    "int8, zstd": ({"codec": "int8", "compress": "zstd"}, "92.29, 6x"),
    "int4": ({"codec": "int4"}, "92.34, 7.9x"),
    "int4, zstd": ({"codec": "int4", "compress": "zstd"}, "92.34, 14.7x"),
    "topk, 10 %": ({"codec": "topk", "fraction": 0.1}, ""),
    "topk, 1 %": ({"codec": "topk"}, "91.62, 133x"),
    "topk, 1 %, zstd": ({"codec": "topk", "compress": "zstd"}, "91.62, 221x"),
    "topk, 0.1 %": ({"codec": "topk", "fraction": 0.001}, ""),
    "int4 up, int8 down, zstd": ({"codec": "int4", "down": "int8", "compress": "zstd"}, ""),
}
_GOAL_SMALLER: Final = 14.0  # times
_GOAL_LOST: Final = 0.1  # points


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One study: accuracy in %, bytes of one site in one round."""

    accuracy: float
    up: float
    down: float


def run(repeat: int) -> None:
    """Run one seed after the other, all codecs on each seed's split."""
    found: dict[str, list[Measured]] = {name: [] for name in _TRANSPORTS}
    for seed in range(42, 42 + repeat):
        for name, (transport, _before) in _TRANSPORTS.items():
            found[name].append(_measure(seed, transport))
    plain = found["float32"]
    rows = []
    for name, (_transport, before) in _TRANSPORTS.items():
        measured = found[name]
        lost = [one.accuracy - other.accuracy for one, other in zip(plain, measured, strict=True)]
        rows.append(
            [
                name,
                f"{fmean(one.accuracy for one in measured):.2f}",
                f"{fmean(lost):+.2f} ± {stdev(lost) if len(lost) > 1 else 0.0:.2f}",
                f"{fmean(one.up for one in measured) / 1000:.1f}",
                times(fmean(one.up for one in plain) / fmean(one.up for one in measured)),
                times(fmean(one.down for one in plain) / fmean(one.down for one in measured)),
                before,
            ]
        )
    print_table(
        [
            f"MNIST, {_SITES} sites, Dirichlet .5, {repeat} seeds",
            "accuracy",
            "points lost",
            "kB up",
            "up",
            "down",
            "before",
        ],
        rows,
    )
    best = found["int4, zstd"]
    smaller = fmean(one.up for one in plain) / fmean(one.up for one in best)
    points = fmean(one.accuracy for one in plain) - fmean(one.accuracy for one in best)
    print_table(
        ["goal", "measured", ""],
        [
            ["int4 with zstd at least 14x smaller", times(smaller), verdict(smaller >= _GOAL_SMALLER)],
            ["the same: at most .1 point lost", f"{points:+.2f}", verdict(points <= _GOAL_LOST)],
        ],
    )


def _measure(seed: int, transport: dict[str, Any]) -> Measured:
    with tempfile.TemporaryDirectory() as folder:
        run_folder = RunFolder.create(Path(folder) / "run")
        try:
            results = simulate(_plan(seed, transport), run_folder, machine=Machine(workers=1), observer=Quiet())
        finally:
            run_folder.close()
    assert results.final is not None
    assert results.final.weighted_mean is not None
    messages = _SITES * len(results.rounds)
    return Measured(
        accuracy=100.0 * (results.final.weighted_mean.accuracy or 0.0),
        up=sum(entry.bytes_up for entry in results.rounds) / messages,
        down=sum(entry.bytes_down for entry in results.rounds) / messages,
    )


def _plan(seed: int, transport: dict[str, Any]) -> StudyPlan:
    values: dict[str, Any] = {
        "name": "codecs",
        "purpose": "To measure how small updates may get.",
        "seed": seed,
        "model": {"name": "mlp", "hidden": [200]},
        "data": {
            "kind": "image",
            "channels": 1,
            "height": 28,
            "width": 28,
            "classes": [str(digit) for digit in range(10)],
        },
        "training": {"optimizer": "sgd", "learning_rate": 0.1, "batch_size": 32, "epochs": 1},
        "rounds": {"count": _ROUNDS},
        "transport": transport,
        "simulation": {
            "sites": _SITES,
            "partition": "dirichlet:0.5",
            "device": "cpu",
            "data": {"adapter": "mnist5k"},
        },
    }
    return parse_plan(values)
