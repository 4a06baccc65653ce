"""What imports what, found by reading every module: no list that a person keeps."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
PACKAGES = {"hansa_common": "common", "hansa_client": "client", "hansa_server": "server"}
FLOWER_ROOMS = (
    "hansa_client/app.py",
    "hansa_client/worker.py",
    "hansa_server/app.py",
    "hansa_server/bundle.py",
    "hansa_server/engines/",
)
GRPC_ROOMS = (
    "hansa_common/wire/",
    "hansa_client/calls.py",
    "hansa_client/connection.py",
    "hansa_server/federation/",
)
TORCH_ROOMS = (
    "hansa_common/models/",
    "hansa_client/training/",
    "hansa_client/work.py",
    "hansa_client/device.py",
    "hansa_client/leaks/",
)


def modules() -> list[tuple[str, ast.Module]]:
    return [
        (path.relative_to(REPOSITORY / role).as_posix(), ast.parse(path.read_text()))
        for package, role in PACKAGES.items()
        for path in sorted((REPOSITORY / role / package).rglob("*.py"))
    ]


MODULES = modules()


def imported(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def importers(prefix: str) -> set[str]:
    return {
        name
        for name, tree in MODULES
        if any(module == prefix or module.startswith(f"{prefix}.") for module in imported(tree))
    }


def test_all_modules_are_read() -> None:
    assert len(MODULES) > 60


def test_flower_stays_in_its_rooms() -> None:
    assert {name for name in importers("flwr") if not name.startswith(FLOWER_ROOMS)} == set()


def test_torch_stays_in_its_rooms() -> None:
    assert {name for name in importers("torch") if not name.startswith(TORCH_ROOMS)} == set()


def test_only_the_session_imports_the_way_out() -> None:
    assert importers("hansa_client.release") == {"hansa_client/session.py"}


def test_grpc_and_the_database_stay_in_their_rooms() -> None:
    assert {name for name in importers("grpc") if not name.startswith(GRPC_ROOMS)} == set()
    assert {name for name in importers("sqlalchemy") if not name.startswith("hansa_server/federation/")} == set()
    assert importers("sqlite3") == set()


def test_only_release_puts_an_update_into_bytes() -> None:
    """On its way out an ``Update`` is encoded in one place.

    The agent encodes that it keeps a model, the two halves of the worker what they say to each other on one machine.
    """
    users = {
        name
        for name, tree in MODULES
        if name.startswith("hansa_client/")
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "encode"
    }
    inside = {"hansa_client/worker.py", "hansa_client/worker_process.py"}
    assert users - inside == {"hansa_client/agent.py", "hansa_client/release.py", "hansa_client/session.py"}
    agent = (REPOSITORY / "client/hansa_client/agent.py").read_text()
    assert agent.count(" encode(") == 1
    assert "encode(Message(header=Delivered(" in agent
    work = (REPOSITORY / "client/hansa_client/work.py").read_text()
    assert work.count(".delta") == 1  # of a baseline that never leaves
    assert work.count(".update") == 1  # to the session
    session = (REPOSITORY / "client/hansa_client/session.py").read_text()
    assert session.count(".reply(message, ") == 2  # what the work gave, of a real and of a simulated site
    assert [line.strip() for line in session.splitlines() if " encode(" in line] == [
        "return encode(Message(header=Refusal(code=code, site=site, reason=reason[:2000])))",
        "return encode(self._custody.masking(plan).answer(message))",  # steps of the protocol carry no update
        "return encode(masking.answer(message))",
    ]
    assert {name for name in inside if "release" in (REPOSITORY / "client" / name).read_text()} == set()


def test_nothing_is_pickled() -> None:
    """``pickletools`` reads without executing; the CIFAR-10 adapter uses it."""
    for module in ("pickle", "cloudpickle", "dill", "marshal", "shelve", "joblib"):
        assert importers(module) == set()
    for name, tree in MODULES:
        for node in ast.walk(tree):
            if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
                assert isinstance(node.value, ast.Constant), name
                assert node.value.value is False, name
            if isinstance(node, ast.keyword) and node.arg == "weights_only":
                assert isinstance(node.value, ast.Constant), name
                assert node.value.value is True, name


@pytest.mark.parametrize(
    "module",
    [
        "hansa_client.agent",
        "hansa_common.cli",
        "hansa_server.cli",
        "hansa_server.federation.process",
        "hansa_server.federation.runner",
        "hansa_server.simulation",
    ],
)
def test_no_torch_is_imported_where_nothing_trains(module: str) -> None:
    code = f"import {module}, sys; assert 'torch' not in sys.modules and 'matplotlib' not in sys.modules"
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)


def test_the_coordinator_and_the_agent_run_without_flower() -> None:
    code = "import hansa_server.federation.process, hansa_client.agent, sys; assert 'flwr' not in sys.modules"
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)


def test_every_module_says_what_it_is() -> None:
    assert [name for name, tree in MODULES if not ast.get_docstring(tree)] == []


def test_no_module_grows_beyond_one_room() -> None:
    lengths = {
        name: len((REPOSITORY / PACKAGES[name.split("/")[0]] / name).read_text().splitlines()) for name, _ in MODULES
    }
    assert {name: length for name, length in lengths.items() if length > 460} == {}
