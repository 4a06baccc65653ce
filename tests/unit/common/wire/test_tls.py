import os
import subprocess
import sys

import pytest

from hansa_common.wire import tls
from hansa_common.wire.protocol import CHUNK, MAX_CALL


def run(program: str) -> str:
    """In a process of its own, for grpc is loaded once."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GRPC")}
    command = [sys.executable, "-c", f"import sys\n{program}"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip()


def test_the_cipher_suites_are_set_before_grpc_is_loaded() -> None:
    assert run("import hansa_common; print('grpc' in sys.modules, hansa_common.TLS_IS_1_3_ONLY)") == "False True"


@pytest.mark.parametrize("call", ["client_credentials([])", "server_credentials(b'', '')"])
def test_where_grpc_came_first_there_are_no_credentials(call: str) -> None:
    program = (
        "import grpc\nfrom hansa_common.wire import tls\n"
        f"try: tls.{call}\nexcept RuntimeError as error: print(error)\nelse: print('credentials')"
    )
    assert "grpc was loaded before hansa_common" in run(program)


@pytest.mark.parametrize("module", ["hansa_common.cli", "hansa_common.wire.tls"])
def test_every_way_in_sets_them_first(module: str) -> None:
    assert run(f"import {module}, hansa_common; print(hansa_common.TLS_IS_1_3_ONLY)") == "True"


def test_limits_hold_what_the_protocol_needs_and_not_much_more() -> None:
    server, client = dict(tls.SERVER_OPTIONS), dict(tls.CLIENT_OPTIONS)
    assert CHUNK < server["grpc.max_receive_message_length"] <= 2 * CHUNK
    assert client["grpc.max_send_message_length"] == server["grpc.max_receive_message_length"]
    assert client["grpc.max_receive_message_length"] == server["grpc.max_send_message_length"] == MAX_CALL
    assert server["grpc.max_metadata_size"] <= 16 << 10


def test_a_dead_connection_is_noticed_in_seconds_and_the_server_bears_the_pings() -> None:
    server, client = dict(tls.SERVER_OPTIONS), dict(tls.CLIENT_OPTIONS)
    for options in (server, client):
        assert options["grpc.keepalive_time_ms"] + options["grpc.keepalive_timeout_ms"] <= 15_000
    assert server["grpc.http2.min_ping_interval_without_data_ms"] < client["grpc.keepalive_time_ms"]


@pytest.mark.parametrize("variable", ["http_proxy", "https_proxy", "grpc_proxy"])
def test_only_the_proxy_of_the_settings_is_used(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "http://127.0.0.1:1")
    assert dict(tls.client_options())["grpc.enable_http_proxy"] == 0
    through = dict(tls.client_options(proxy="proxy.example.org:3128"))
    assert through["grpc.http_proxy"] == "http://proxy.example.org:3128"
    assert "grpc.enable_http_proxy" not in through
