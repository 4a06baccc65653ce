"""Hansa's training with no framework around it: persistent processes, pipes, and federated averaging in the parent.

Each site evaluates the incoming model on its validation split and trains, as in Hansa; the sites are divided over the
processes once, as evenly as can be, and a process sends back one sum. What a system can cost at least, therefore.
Started as ``python -m benchmarks.bare_loop PLAN PROCESSES OUT``.
"""

import json
import multiprocessing
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from hansa_common.parameters import Accumulator, Vector
from hansa_common.plan import StudyPlan, read_plan


def serve(channel: Connection, path: Path, sites: range) -> None:
    """Train these sites for each vector that comes in; end at ``None``."""
    import torch

    from hansa_client.simulated import divide, site_splits
    from hansa_client.training.memory import keep_freed_memory
    from hansa_client.training.supervised import SupervisedTraining

    keep_freed_memory()
    torch.set_num_threads(1)
    plan, device = read_plan(path), torch.device("cpu")
    dataset = divide(plan).dataset
    procedures = [
        SupervisedTraining(plan=plan, dataset=dataset, splits=site_splits(plan, site), device=device) for site in sites
    ]
    channel.send(procedures[0].initial(plan.seed))
    number = 0
    while (parameters := channel.recv()) is not None:
        number += 1
        total, examples = np.zeros(parameters.size), 0
        for site, procedure in zip(sites, procedures, strict=True):
            procedure.evaluate(parameters, "validation")
            trained = procedure.train(parameters, round_number=number, seed=site)
            total += trained.num_examples * trained.delta.astype(np.float64)
            examples += trained.num_examples
        channel.send((total, examples))


def federate(plan: StudyPlan, channels: list[Connection]) -> list[float]:
    """Run all rounds and return the seconds of each."""
    initial: list[Vector] = [channel.recv() for channel in channels]  # the same from each
    parameters = initial[0]
    seconds = []
    for _ in range(plan.rounds.count):
        started = time.monotonic()
        for channel in channels:
            channel.send(parameters)
        answers: list[tuple[Accumulator, int]] = [channel.recv() for channel in channels]
        total, examples = sum(total for total, _ in answers), sum(count for _, count in answers)
        parameters = np.asarray(parameters + total / examples, dtype=np.float32)
        seconds.append(time.monotonic() - started)
    for channel in channels:
        channel.send(None)
    return seconds


def main(path: Path, processes: int, out: Path) -> None:
    """Run a study without Hansa."""
    plan = read_plan(path)
    assert plan.simulation is not None
    assert plan.simulation.sites is not None
    context = multiprocessing.get_context("spawn")
    channels, workers = [], []
    for number in range(processes):
        ours, theirs = context.Pipe()
        sites = range(number, plan.simulation.sites, processes)
        workers.append(context.Process(target=serve, args=(theirs, path, sites)))
        workers[-1].start()
        channels.append(ours)
    out.write_text(json.dumps({"rounds": federate(plan, channels)}))
    for worker in workers:
        worker.join()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
