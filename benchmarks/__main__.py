"""Run the benchmarks named on the command line, or all of them, and print their tables as Markdown."""

import argparse
import os
from collections.abc import Callable
from pathlib import Path

from benchmarks import (
    cifar10,
    codecs,
    exchange,
    federation,
    heart,
    many_sites,
    niid,
    privacy,
    private_mnist,
    recovery,
    robust,
    secagg,
    server_memory,
    simulation,
    survival,
)
from benchmarks.limits import Limits
from benchmarks.machine import describe, use_cores

BENCHMARKS: dict[str, Callable[[int], None]] = {
    "simulation": simulation.run,
    "many_sites": many_sites.run,
    "server_memory": server_memory.run,
    "codecs": codecs.run,
    "private_mnist": private_mnist.run,
    "exchange": exchange.run,
    "federation": federation.run,
    "recovery": recovery.run,
    "privacy": privacy.run,
    "robust": robust.run,
    "heart": heart.run,
    "survival": survival.run,
    "soak": federation.soak,
    "secagg": secagg.run,
}
LIMITED: dict[str, Callable[[int, Limits], None]] = {
    "cifar10": cifar10.run,
    "niid": niid.run,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    known = [*BENCHMARKS, *LIMITED]
    parser.add_argument("names", nargs="*", metavar="name", help=f"any of: {', '.join(known)}; all without one")
    parser.add_argument("--cores", type=int, default=2, help="cores to use (default: 2)")
    parser.add_argument("--repeat", type=int, default=3, help="how often each is run, in turn (default: 3)")
    parser.add_argument("--data", metavar="FOLDER", help="where real data lies; HANSA_TEST_DATA where left out")
    limited = parser.add_argument_group(f"of {', '.join(LIMITED)}")
    limited.add_argument("--rounds", type=int, help="so many in place of the benchmark's own")
    limited.add_argument("--partition", action="append", default=[], help="this row only; may be repeated")
    limited.add_argument("--strategy", action="append", default=[], help="this column only; may be repeated")
    limited.add_argument(
        "--out", type=Path, metavar="FOLDER", help="keep the runs there, and go on with those that are"
    )
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.names) - set(known))
    if unknown:
        parser.error(f"there is no benchmark {', '.join(unknown)}; there are: {', '.join(known)}")
    limits = Limits(
        rounds=arguments.rounds,
        partitions=tuple(arguments.partition),
        strategies=tuple(arguments.strategy),
        out=arguments.out.resolve() if arguments.out is not None else None,
    )
    if arguments.data is not None:
        os.environ["HANSA_TEST_DATA"] = arguments.data
    use_cores(arguments.cores)
    for name in arguments.names or known:
        print(f"\n## {name}\n\n{describe()}", flush=True)
        if name in LIMITED:
            LIMITED[name](arguments.repeat, limits)
        else:
            BENCHMARKS[name](arguments.repeat)


if __name__ == "__main__":
    main()
