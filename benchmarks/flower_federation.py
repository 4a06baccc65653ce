"""The same exchange on stock Flower: SuperLink, SuperNodes and ``flwr run``, with TLS, as Flower's guide starts them.

The app is Flower's own ``FedAvg.start`` over one NumPy array; a site sends back what it got. Nodes show no certificate
of their own, which is less work than Hansa's sites do. Rounds are timed by the ServerApp.
"""

import contextlib
import ipaddress
import itertools
import json
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from benchmarks.process import PYTHON

_BIN = Path(PYTHON).parent
_HOST = "127.0.0.1"
_SERVER = """
import json, time
import numpy as np
from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

app = ServerApp()


class Timed(FedAvg):
    starts = []

    def configure_train(self, server_round, arrays, config, grid):
        self.starts.append(time.monotonic())
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(self, server_round, replies):
        replies = list(replies)
        assert replies and not any(reply.has_error() for reply in replies)
        return super().aggregate_train(server_round, replies)


@app.main()
def main(grid: Grid, context: Context) -> None:
    config = context.run_config
    sites = int(config["sites"])
    strategy = Timed(fraction_train=1.0, fraction_evaluate=0.0, min_train_nodes=sites, min_available_nodes=sites)
    arrays = ArrayRecord([np.zeros(int(config["values"]), np.float32)])
    strategy.start(grid=grid, initial_arrays=arrays, num_rounds=int(config["rounds"]), timeout=600)
    strategy.starts.append(time.monotonic())
    with open(str(config["out"]), "w") as file:
        json.dump(strategy.starts, file)
"""
_CLIENT = """
from flwr.app import Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    metrics = MetricRecord({"num-examples": 1})
    return Message(RecordDict({"arrays": message.content["arrays"], "metrics": metrics}), reply_to=message)
"""
_PROJECT = """
[project]
name = "exchange"
version = "1.0.0"
dependencies = []

[tool.flwr.app]
publisher = "benchmark"

[tool.flwr.app.components]
serverapp = "exchange.server:app"
clientapp = "exchange.client:app"

[tool.flwr.app.config]
sites = 1
values = 1
rounds = 1
out = ""
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stock:
    """One run.

    Attributes:
        rounds: Seconds of each, without the first; empty where it did not finish.
        memory: Largest sum in bytes of the RSS of the SuperLink and the processes that it started.
        bytes: Up and down in one round.
    """

    rounds: tuple[float, ...]
    memory: int
    bytes: int


def measure(*, sites: int, values: int, rounds: int, limit: float) -> Stock:
    """Run one app with a model of this many float32 values, for at most ``limit`` seconds."""
    with tempfile.TemporaryDirectory() as path:
        folder = Path(path)
        (port, *others) = _free_ports(sites + 1)
        _write_certificate(folder)
        _write_app(folder, port)
        with _running(folder, port, others) as superlink:
            settings = f'sites={sites} values={values} rounds={rounds} out="{folder / "times.json"}"'
            command: list[str | Path] = [_BIN / "flwr", "run", folder / "app", "benchmark", "--run-config", settings]
            subprocess.run(command, env=_environment(folder), check=True, capture_output=True, timeout=120)
            memory = _wait(folder / "times.json", superlink, limit)
            finished = (folder / "times.json").exists()
            starts = json.loads((folder / "times.json").read_text()) if finished else []
    times = tuple(after - before for before, after in itertools.pairwise(starts[1:]))
    return Stock(rounds=times, memory=memory, bytes=2 * sites * values * 4)


@contextlib.contextmanager
def _running(folder: Path, port: int, others: list[int]) -> Iterator[psutil.Process]:
    certificate, key = folder / "ca.pem", folder / "key.pem"
    link: list[str | Path] = [
        _BIN / "flower-superlink",
        "--ssl-ca-certfile",
        certificate,
        "--ssl-certfile",
        certificate,
    ]
    link += ["--ssl-keyfile", key, "--port", str(port), "--disable-runtime-dependency-installation"]
    started = [_start(folder, "superlink", link)]
    try:
        _await_port(port)
        for number, own in enumerate(others):
            node: list[str | Path] = [
                _BIN / "flower-supernode",
                "--superlink",
                f"{_HOST}:{port}",
                "--root-certificates",
                certificate,
            ]
            node += ["--port", str(own), "--node-config", f"partition-id={number}"]
            started.append(_start(folder, f"node-{number}", node))
        yield psutil.Process(started[0].pid)
    finally:
        for process in started:
            for child in (*psutil.Process(process.pid).children(recursive=True), process):
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.kill()
        for process in started:
            process.wait()


def _start(folder: Path, name: str, command: list[str | Path]) -> "subprocess.Popen[bytes]":
    with (folder / f"{name}.log").open("wb") as log:
        return subprocess.Popen(command, env=_environment(folder / name), stdout=log, stderr=log, cwd=folder)


def _environment(home: Path) -> dict[str, str]:
    home.mkdir(exist_ok=True)
    path = os.pathsep.join([str(_BIN), os.environ["PATH"]])
    return os.environ | {"FLWR_HOME": str(home), "FLWR_TELEMETRY_ENABLED": "0", "OMP_NUM_THREADS": "1", "PATH": path}


def _wait(out: Path, superlink: psutil.Process, limit: float) -> int:
    """Return the largest memory until the result is there, or the time is over."""
    deadline, most = time.monotonic() + limit, 0
    while not out.exists() and time.monotonic() < deadline:
        memory = 0
        for process in (superlink, *superlink.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                memory += process.memory_info().rss
        most = max(most, memory)
        time.sleep(0.1)
    return most


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server((_HOST, 0))) for _ in range(count)]
        return [int(found.getsockname()[1]) for found in sockets]


def _await_port(port: int) -> None:
    deadline = time.monotonic() + 60.0
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection((_HOST, port), timeout=1.0):
            return
        time.sleep(0.1)
    raise RuntimeError("The SuperLink does not answer.")


def _write_certificate(folder: Path) -> None:
    """Make one certificate that is its own authority, as Flower's guide does for a try on one machine."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, _HOST)])
    now = datetime.now(UTC)
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(_HOST))])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=6))
        .add_extension(address, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "ca.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    (folder / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def _write_app(folder: Path, port: int) -> None:
    package = folder / "app" / "exchange"
    package.mkdir(parents=True)
    (folder / "app" / "pyproject.toml").write_text(_PROJECT)
    (package / "__init__.py").write_text("")
    (package / "server.py").write_text(_SERVER)
    (package / "client.py").write_text(_CLIENT)
    connection = f'[superlink.benchmark]\naddress = "{_HOST}:{port}"\nroot-certificates = "{folder / "ca.pem"}"\n'
    (folder / "config.toml").write_text(f'[superlink]\ndefault = "benchmark"\n\n{connection}')
