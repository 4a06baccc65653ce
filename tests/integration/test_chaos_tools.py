"""The tools that break networks do break them, and only as they were told."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest
from tests.chaos.connect_proxy import ConnectProxy
from tests.chaos.cutting_proxy import CuttingProxy, Fault, Weather

_PATIENCE = 10.0  # seconds


class Echo:
    """Sends back what comes in, and notes it."""

    def __init__(self) -> None:
        self.received: list[bytearray] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                received = bytearray()
                self.received.append(received)
                thread = threading.Thread(target=self._serve, args=(connection, received))
                self._threads.append(thread)
                thread.start()

    @staticmethod
    def _serve(connection: socket.socket, received: bytearray) -> None:
        with connection, contextlib.suppress(OSError):
            while content := connection.recv(1 << 16):
                received += content
                connection.sendall(content)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(_PATIENCE)


@pytest.fixture
def echo() -> Iterator[Echo]:
    server = Echo()
    yield server
    server.close()


@pytest.fixture
def proxy(echo: Echo) -> Iterator[CuttingProxy]:
    with CuttingProxy(echo.port) as proxy:
        yield proxy


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=_PATIENCE)


def receive(connection: socket.socket, size: int) -> bytes:
    content = b""
    while len(content) < size and (piece := connection.recv(size - len(content))):
        content += piece
    return content


def test_without_a_fault_it_is_a_wire(proxy: CuttingProxy) -> None:
    content = bytes(range(256)) * 4_000
    with connect(proxy.port) as connection:
        thread = threading.Thread(target=connection.sendall, args=(content,))
        thread.start()
        assert receive(connection, len(content)) == content
        thread.join()
    assert proxy.healed.is_set()
    assert (proxy.accepted, proxy.up) == (1, len(content))


@pytest.mark.parametrize("kind", ["rst", "fin"])
def test_a_connection_is_cut_after_so_many_bytes(echo: Echo, proxy: CuttingProxy, kind: str) -> None:
    proxy.arm(Fault(kind=kind, after=1_000))  # type: ignore[arg-type]
    with connect(proxy.port) as connection:
        connection.sendall(bytes(999))
        assert receive(connection, 999) == bytes(999)
        assert not proxy.fired.is_set()
        connection.sendall(bytes(500))
        assert proxy.fired.wait(_PATIENCE)
        if kind == "rst":
            with pytest.raises(ConnectionResetError):
                receive(connection, 10_000)
        else:
            assert len(receive(connection, 10_000)) <= 1
    assert proxy.up == 1_000
    with connect(proxy.port) as connection:  # once
        connection.sendall(bytes(5_000))
        assert receive(connection, 5_000) == bytes(5_000)


def test_silence_ends_nothing_and_loses_nothing(proxy: CuttingProxy) -> None:
    with connect(proxy.port) as connection:
        connection.sendall(b"before")
        assert receive(connection, 6) == b"before"
        start = time.monotonic()
        proxy.arm(Fault(kind="silence", seconds=0.3))
        connection.sendall(b"after")
        with connect(proxy.port) as another:
            another.sendall(b"too")
            assert receive(another, 3) == b"too"
        assert receive(connection, 5) == b"after"
        assert time.monotonic() - start >= 0.3
    assert proxy.healed.is_set()


def test_new_connections_are_accepted_and_closed_as_often_as_told(proxy: CuttingProxy) -> None:
    proxy.arm(Fault(kind="refuse", connections=2))
    for _ in range(2):
        assert not proxy.healed.is_set()
        with connect(proxy.port) as connection:
            assert connection.recv(1) == b""
    assert proxy.healed.wait(_PATIENCE)
    with connect(proxy.port) as connection:
        connection.sendall(b"x")
        assert connection.recv(1) == b"x"


@pytest.mark.parametrize(
    ("weather", "least"),
    [
        (Weather(rate=64 << 10), 0.25),  # 8 KiB up and down at 64 KiB/s
        (Weather(delay=0.1), 0.2),
        (Weather(loss=1.0), 0.4),
        (Weather(piece=1), 0.0),
    ],
)
def test_weather_changes_the_time_and_nothing_else(proxy: CuttingProxy, weather: Weather, least: float) -> None:
    content = bytes(range(256)) * 32
    proxy.set(weather)
    start = time.monotonic()
    with connect(proxy.port) as connection:
        connection.sendall(content)
        assert receive(connection, len(content)) == content
    assert time.monotonic() - start >= least * 0.95


def test_a_server_that_is_not_there_is_a_closed_connection(echo: Echo) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    with CuttingProxy(port) as proxy, connect(proxy.port) as connection:
        assert connection.recv(1) == b""


def test_connect_opens_a_tunnel_to_allowed_ports_only(echo: Echo) -> None:
    with ConnectProxy(ports={echo.port}) as proxy:
        with connect(proxy.port) as connection:
            connection.sendall(f"CONNECT 127.0.0.1:{echo.port} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            assert receive(connection, 39) == b"HTTP/1.1 200 Connection established\r\n\r\n"
            connection.sendall(b"hello")
            assert receive(connection, 5) == b"hello"
        assert proxy.targets == [("127.0.0.1", echo.port)]
        for request, status in (("CONNECT 127.0.0.1:1 HTTP/1.1", b"403"), ("GET / HTTP/1.1", b"405")):
            with connect(proxy.port) as connection:
                connection.sendall(f"{request}\r\n\r\n".encode())
                assert receive(connection, 12) == b"HTTP/1.1 " + status
    assert (len(proxy.targets), proxy.refused) == (1, 2)
