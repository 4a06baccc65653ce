"""Run the benchmarks named on the command line, or all of them, and print their tables as Markdown."""

import argparse
import os
from collections.abc import Callable

from benchmarks import (
    cifar10,
    codecs,
    exchange,
    federation,
    heart,
    many_sites,
    privacy,
    private_mnist,
    recovery,
    robust,
    secagg,
    server_memory,
    simulation,
    survival,
)
from benchmarks.machine import describe, use_cores

BENCHMARKS: dict[str, Callable[[int], None]] = {
    "simulation": simulation.run,
    "many_sites": many_sites.run,
    "server_memory": server_memory.run,
    "cifar10": cifar10.run,
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


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help=f"any of: {', '.join(BENCHMARKS)}; all without one")
    parser.add_argument("--cores", type=int, default=2, help="cores to use (default: 2)")
    parser.add_argument("--repeat", type=int, default=3, help="how often each is run, in turn (default: 3)")
    parser.add_argument("--data", metavar="FOLDER", help="where real data lies; HANSA_TEST_DATA where left out")
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.names) - set(BENCHMARKS))
    if unknown:
        parser.error(f"there is no benchmark {', '.join(unknown)}; there are: {', '.join(BENCHMARKS)}")
    if arguments.data is not None:
        os.environ["HANSA_TEST_DATA"] = arguments.data
    use_cores(arguments.cores)
    for name in arguments.names or BENCHMARKS:
        print(f"\n## {name}\n\n{describe()}", flush=True)
        BENCHMARKS[name](arguments.repeat)


if __name__ == "__main__":
    main()
