"""Chooses the engine: the one place that knows all of them."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hansa_server.app import server_app
from hansa_server.engines import ray
from hansa_server.engines.flower_app import run_on
from hansa_server.engines.inline import InlineExchange, Site
from hansa_server.engines.local import LocalGrid
from hansa_server.exchange import Exchange

Engine = Literal["local", "ray", "inline"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Where a simulation runs.

    Attributes:
        engine: What carries the messages.
        workers: How many sites at a time; one for each core where it is ``None``.
        ray_address: Of an existing Ray cluster.
    """

    engine: Engine = "local"
    workers: int | None = None
    ray_address: str | None = None


def run(
    machine: Machine,
    conduct: Callable[[Exchange], None],
    stop: threading.Event,
    *,
    client_app: str,
    nodes: int,
    gpus_per_site: float,
    log: Path,
) -> None:
    """Run ``conduct`` with simulated nodes until it returns or ``stop`` is set.

    Args:
        machine: Where.
        conduct: The study.
        stop: Set by whoever wants the study to stop.
        client_app: Reference ``module:attribute`` of the sites' ClientApp.
        nodes: How many sites.
        gpus_per_site: Share of a GPU that a running site takes on engine ``ray``.
        log: Takes the workers' output on engine ``local``.
    """
    if machine.engine == "inline":
        raise RuntimeError("Engine 'inline' calls its sites; run_inline takes them.")
    app = server_app(conduct, stop, nodes=nodes)
    if machine.engine == "ray":
        ray.run(
            app,
            client_app=client_app,
            nodes=nodes,
            address=machine.ray_address,
            workers=machine.workers,
            gpus_per_site=gpus_per_site,
        )
    else:
        run_on(LocalGrid(client_app=client_app, nodes=nodes, workers=machine.workers, log=log), app)


def run_inline(conduct: Callable[[Exchange], None], stop: threading.Event, sites: Mapping[int, Site]) -> None:
    """Run ``conduct`` with simulated nodes of this process.

    Args:
        conduct: The study.
        stop: Set by whoever wants the study to stop.
        sites: By node.
    """
    conduct(InlineExchange(sites, stop))
