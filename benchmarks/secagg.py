"""Secure aggregation: seconds and bytes of a site and of the server, beside the floor of the machine.

The floor is what no implementation of this protocol can be faster than here: AES-256 in counter mode and an addition
for each of the other sites' masks and the site's own, and the encoding, each over one chunk that stays in the cache,
measured in the same run. A dropped site costs the server one mask for each survivor. Seconds are the process's, not the
clock's. Cells that take long are left out: 50 and 100 sites with 10 million words.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from benchmarks import contenders, studies
from benchmarks.table import print_table, times, verdict
from hansa_common.plan import dump_plan, parse_plan
from hansa_common.secagg import (
    Announcement,
    Answer,
    Confirmation,
    FixedPoint,
    MaskedInput,
    ServerSession,
    Setup,
    SiteMemory,
    SiteSession,
    Survivors,
    Terms,
)
from hansa_common.secagg.fixedpoint import Rounding
from hansa_common.secagg.masking import CHUNK, KeyStream, room
from hansa_common.signing import public_hex

SITES = (3, 10, 50, 100)
SIZES = (100_000, 1_000_000, 10_000_000)
MOST = 100_000_000  # words times sites
MODEL = bytes(32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Of one cell, in seconds and bytes."""

    site: float
    exchange: float
    """Setup, confirmation and answer of one site: what does not depend on the model's size."""
    server: float
    upload: int
    small: int


def run(repeat: int) -> None:
    """Print the floor, the table, and the goals."""
    floors = {bits: floor(bits, repeat) for bits in (16, 32)}
    for bits, (mask, encode) in floors.items():
        print(f"\nFloor, {bits} bits: {mask * 1e9:.2f} ns a word and mask, encoding {encode * 1e9:.2f} ns a word.")
    costs = {}
    rows = []
    for bits in (16, 32):
        for n in SITES:
            for size in SIZES:
                if n * size > MOST:
                    continue
                dropped = n // 10
                cost = costs[bits, n, size] = measure(bits, n, size, dropped=dropped, repeat=repeat)
                mask, encode = floors[bits]
                least = size * (n * mask + encode)
                rows.append(
                    [
                        f"{n} sites, {size:,} words of {bits} bits",
                        f"{1e3 * cost.site:.1f} ms",
                        times(cost.site / least),
                        f"{1e3 * cost.exchange:.1f} ms",
                        f"{dropped}",
                        f"{1e3 * cost.server:.1f} ms",
                        f"{cost.upload / 1e6:.2f} MB",
                        f"{cost.small / 1e3:.1f} kB",
                    ]
                )
    print_table(
        ["", "site: encode and mask", "over floor", "site: keys", "dropped", "server: unmask", "upload", "else"], rows
    )
    goals(costs, floors)
    whole_rounds(repeat)


def whole_rounds(repeat: int) -> None:
    """Print seconds of a simulated round, masked and in the open, run in turn: four sites and the shared CNN."""
    masks = {"weights": "equal", "secure_aggregation": {"ring_bits": 32, "coordinate_range": 1.0, "cohort": "fixed"}}
    with tempfile.TemporaryDirectory() as folder:
        task = studies.images(Path(folder), sites=4, per_site=2_500, rounds=4)
        plan = parse_plan(task.plan.model_dump(exclude_none=True) | {"privacy": masks})
        path = Path(folder) / "masked.toml"
        path.write_text(dump_plan(plan))
        variants = {"in the open": task, "masked": replace(task, plan=plan, path=path)}
        seconds: dict[str, list[float]] = {name: [] for name in variants}
        for _ in range(repeat):
            for name, variant in variants.items():
                seconds[name].append(contenders.hansa(variant).steady_round)
    found = {name: statistics.median(values) for name, values in seconds.items()}
    ratio = found["masked"] / found["in the open"]
    print_table(
        [f"a round, 4 sites, 122,570 parameters, medians of {repeat} runs in turn", "seconds"],
        [[name, f"{value:.3f} s"] for name, value in found.items()],
    )
    print_table(
        ["goal", "measured", ""],
        [["masked / in the open, at most 1.05x", times(ratio), verdict(ratio <= 1.05)]],
    )


def goals(costs: dict[tuple[int, int, int], Cost], floors: dict[int, tuple[float, float]]) -> None:
    """Print what was aimed at beside what was measured."""
    rows = []
    for bits, limit in ((32, 40.1), (16, 20.1)):
        cost = costs[bits, 10, 10_000_000]
        met = cost.site + cost.exchange <= 0.40 and cost.upload / 1e6 <= limit
        found = f"{cost.site + cost.exchange:.3f} s, {cost.upload / 1e6:.1f} MB"
        rows.append([f"10 sites, 10 M words, {bits} bits: a site at most 0.40 s, {limit:.0f} MB", found, verdict(met)])
    worst = max(
        cost.site / (size * (n * floors[bits][0] + floors[bits][1]))
        for (bits, n, size), cost in costs.items()
        if size >= 1_000_000
    )
    rows.append(["a site within 2x of the floor from 1 M words", times(worst), verdict(worst <= 2)])
    server = max(costs[bits, 50, 1_000_000].server for bits in (16, 32))
    rows.append(["50 sites, 5 dropped, 1 M words: server at most 1 s", f"{server:.3f} s", verdict(server <= 1)])
    print_table(["goal", "measured", ""], rows)


def best(repeat: int, action: Callable[[], object]) -> float:
    """Return the shortest of so many runs, in seconds of this process: the machine may be doing other things."""
    seconds = []
    for _ in range(repeat):
        started = time.process_time()
        action()
        seconds.append(time.process_time() - started)
    return min(seconds)


def floor(bits: int, repeat: int) -> tuple[float, float]:
    """Return seconds a word of one mask, and of encoding."""
    dtype = np.dtype("<u2" if bits == 16 else "<u4")
    words, stream, buffer = np.zeros(CHUNK // dtype.itemsize, dtype=dtype), KeyStream(bytes(32)), room()
    view = buffer[:CHUNK].view(dtype)

    def mask() -> None:
        for _ in range(200):
            stream.fill(buffer, CHUNK)
            np.add(words, view, out=words)

    encoding = FixedPoint(ring_bits=bits, coordinate_range=1.0, sites=10)
    values = np.random.default_rng(0).uniform(-1, 1, 1 << 15).astype(np.float32)
    out, rounding = np.empty(values.size, dtype=encoding.dtype), Rounding()

    def encode() -> None:
        for _ in range(50):
            encoding.encode(values, 0.5, rounding=rounding, out=out)

    return best(repeat + 2, mask) / (200 * words.size), best(repeat + 2, encode) / (50 * values.size)


def measure(bits: Any, n: int, size: int, *, dropped: int, repeat: int) -> Cost:
    """Run one round: a site whose work is timed, the others' words made from a few bytes."""
    names = tuple(f"site-{number:03}" for number in range(n))
    terms = Terms(plan_digest="ab" * 32, sites=names, cohort="changing", ring_bits=bits)
    signing = {name: Ed25519PrivateKey.generate() for name in names}
    directory = {name: public_hex(key) for name, key in signing.items()}
    sites = {
        name: SiteSession(
            terms=terms,
            site=name,
            signing=signing[name],
            study_key=X25519PrivateKey.generate(),
            directory=directory,
            memory=SiteMemory(),
            save=lambda _: None,
        )
        for name in names
    }
    keys = [site.study_key_statement() for site in sites.values()]
    left = names[: n - dropped]
    encoding = FixedPoint(ring_bits=bits, coordinate_range=1.0, sites=n)
    update = np.random.default_rng(0).uniform(-1, 1, size).astype(np.float32)
    words, counts = np.empty(size, dtype=terms.dtype), np.zeros(8, dtype="<u8")
    attempts = repeat + 3 if n <= 10 else 1  # each needs new setups of all sites
    site_seconds, exchange_seconds, server_seconds = [], [], []
    for attempt in range(1, attempts + 1):
        server = ServerSession(
            terms=terms, round_number=1, attempt=attempt, size=size, counts=8, keys=keys, directory=directory
        )
        spent = Clock()
        first = spent.run(sites[names[0]].setup, 1, attempt, keys)
        for setup in [first, *(sites[name].setup(1, attempt, keys) for name in names[1:])]:
            server.add_setup(setup)
        announcement = server.announce(MODEL)
        spent.run(sites[names[0]].accept, announcement)
        clock = Clock()
        clock.run(encoding.encode, update, 0.5, rounding=Rounding(), out=words)
        masked = clock.run(sites[names[0]].mask, announcement, MODEL, words, counts)
        site_seconds.append(clock.seconds)
        server.add_masked(masked, words, counts)
        nothing, none = np.zeros(0, dtype=terms.dtype), np.zeros(0, dtype="<u8")
        for name in left[1:]:  # the sum is not looked at: the server's time does not depend on what it adds
            server.add_masked(sites[name].mask(announcement, MODEL, nothing, none), words, counts)
        survivors = server.survivors()
        confirmations = [spent.run(sites[left[0]].confirm, survivors)]
        confirmations += [sites[name].confirm(survivors) for name in left[1:]]
        for confirmation in confirmations:
            server.add_confirmation(confirmation)
        shown = server.confirmations()
        answers = [spent.run(sites[left[0]].unmask, shown), *(sites[name].unmask(shown) for name in left[1:])]
        exchange_seconds.append(spent.seconds)
        clock = Clock()
        for answer in answers[: terms.threshold]:
            clock.run(server.add_answer, answer)
        clock.run(server.sum)
        server_seconds.append(clock.seconds)
    up = sum(kind.size(terms) for kind in (Setup, MaskedInput, Confirmation, Answer))
    down = Announcement.size(terms) + Survivors.size(terms) + terms.threshold * Confirmation.size(terms)
    return Cost(
        site=min(site_seconds),
        exchange=min(exchange_seconds),
        server=min(server_seconds),
        upload=words.nbytes + counts.nbytes,
        small=up + down,
    )


class Clock:
    """Adds up the processor seconds of what it runs."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def run(self, action: Callable[..., Any], *values: Any, **named: Any) -> Any:
        started = time.process_time()
        result = action(*values, **named)
        self.seconds += time.process_time() - started
        return result
