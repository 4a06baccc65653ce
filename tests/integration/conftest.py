"""Federations and hostile networks for tests with real processes."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from tests.chaos.connect_proxy import ConnectProxy
from tests.chaos.cutting_proxy import CuttingProxy


@pytest.fixture
def make_federation(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Return a function that builds and starts a ``tests.chaos.federation.Federation``."""
    from tests.chaos.federation import Federation

    with ExitStack() as stack:
        number = 0

        def make(*arguments: Any, **options: Any) -> Federation:
            nonlocal number
            number += 1
            folder = tmp_path / f"federation-{number}"
            folder.mkdir()
            return stack.enter_context(Federation(folder, *arguments, **options))

        yield make


@pytest.fixture
def cutting_proxy() -> Iterator[Callable[[int], CuttingProxy]]:
    """Return a function that puts a proxy before a port."""
    with ExitStack() as stack:
        yield lambda port: stack.enter_context(CuttingProxy(port))


@pytest.fixture
def connect_proxy() -> Iterator[ConnectProxy]:
    """An HTTP CONNECT proxy to any port."""
    with ConnectProxy() as proxy:
        yield proxy
