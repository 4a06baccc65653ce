import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest


@dataclass
class Server:
    """A web server on the loopback interface; ``requests`` are the paths it was asked for."""

    port: int
    requests: list[str] = field(default_factory=list)

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[dict[str, bytes]], Server]]:
    """Serve these contents by path; one below ``/cut`` breaks off in the middle."""
    monkeypatch.setenv("no_proxy", "*")
    started: list[tuple[ThreadingHTTPServer, threading.Thread]] = []

    def start(contents: dict[str, bytes]) -> Server:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                described.requests.append(self.path)
                if self.path not in contents:
                    self.send_error(404)
                    return
                content = contents[self.path]
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content[: len(content) // 2] if self.path.startswith("/cut") else content)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 the library's name
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        described = Server(port=server.server_port)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        started.append((server, thread))
        return described

    yield start
    for server, thread in started:
        server.shutdown()
        thread.join()
        server.server_close()
