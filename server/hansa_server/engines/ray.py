"""Engine ``ray``: Flower's own simulation runtime, on a Ray that it starts here or on a cluster that is there already.

The session runs inside a Ray actor, with no process of its own around training; the report names the engine.
"""

import importlib.util
import logging
import os
import socket
import warnings
from typing import Any

from flwr.serverapp import ServerApp

from hansa_common.errors import UsageError

_CONNECT_SECONDS = 5.0


def run(
    app: ServerApp,
    *,
    client_app: str,
    nodes: int,
    address: str | None = None,
    workers: int | None = None,
    gpus_per_site: float = 0.0,
) -> None:
    """Run a ServerApp and the sites' ClientApp on Ray.

    Args:
        app: The study's ServerApp.
        client_app: Reference ``module:attribute`` of the ClientApp, installed on every machine of the cluster.
        nodes: How many sites.
        address: Of an existing cluster (``auto``, ``host:port``); Ray is started on this machine without one.
        workers: How many cores Ray may use here; only without ``address``.
        gpus_per_site: Share of a GPU that each running site takes.

    Raises:
        UsageError: Ray is not installed, or there is no cluster at ``address``.
    """
    if importlib.util.find_spec("ray") is None:
        raise UsageError("Engine 'ray' needs Ray.", advice="Install it with: pip install 'hansa[simulation]'.")
    flower_log = logging.getLogger("flwr")
    level = flower_log.level
    flower_log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Ray and Flower warn about their own innards
            from flwr.simulation import run_simulation  # noqa: PLC0415 - half a second that engine local does not need

            _connect(address, workers or len(os.sched_getaffinity(0)))
            run_simulation(
                server_app=app,
                client_app=_load(client_app),
                num_supernodes=nodes,
                backend_config={"client_resources": {"num_cpus": 1, "num_gpus": gpus_per_site}},
            )
    finally:
        flower_log.setLevel(level)


def _connect(address: str | None, cores: int) -> None:
    """Start Ray here, or connect to a cluster; Flower's backend then uses what is connected.

    Raises:
        UsageError: There is no cluster at ``address``.
    """
    import ray  # noqa: PLC0415 - a second that engine local does not need

    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "include_dashboard": False}
    try:
        if address is None:
            ray.init(num_cpus=cores, **options)
            return
        host, separator, port = address.removeprefix("ray://").rpartition(":")
        if separator and port.isdigit():  # Ray itself would try for minutes
            socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS).close()
        ray.init(address=address, **options)
    except (OSError, ValueError, OverflowError) as error:  # not there, or no address at all
        raise UsageError(
            f"There is no Ray cluster at '{address}': {error}.",
            advice="Start one with 'ray start --head', or leave --ray-address out to start Ray on this machine.",
        ) from error


def _load(reference: str) -> Any:
    """Import the ClientApp here, for Ray to find it by name in its actors."""
    module, _, attribute = reference.partition(":")
    return getattr(importlib.import_module(module), attribute)
