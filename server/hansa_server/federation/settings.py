"""``server.toml``: every setting of a coordinator, written out with its default and what it is for."""

import json
from pathlib import Path
from typing import Annotated

from pydantic import Field

from hansa_common.files import write_whole
from hansa_common.plan_names import StudyName
from hansa_common.settings import Strict, parse, read_toml

Port = Annotated[int, Field(ge=1, le=65_535)]
Hours = Annotated[float, Field(gt=0.0, le=10 * 8_760.0)]


class ServerSettings(Strict):
    """Settings of one coordinator; ``description`` is what stands beside each in the file."""

    name: Annotated[StudyName, Field(description="Name of the federation; it is in every certificate.")]
    host: Annotated[
        str,
        Field(min_length=1, max_length=253, description="Name or address at which sites reach this machine."),
    ]
    listen: Annotated[str, Field(max_length=253, description="Address to listen on; 0.0.0.0 is every one.")] = "0.0.0.0"  # noqa: S104 - sites come from outside
    enrolment_port: Annotated[
        Port, Field(description="Port for joining: no client certificate, an invitation instead.")
    ] = 8442
    federation_port: Annotated[
        Port, Field(description="Port for everything else: TLS 1.3 with client certificates.")
    ] = 8443
    metrics_address: Annotated[
        str, Field(description='Where Prometheus reads /metrics, as host:port; "" for nowhere.')
    ] = "127.0.0.1:9464"
    certificate_hours: Annotated[
        Hours, Field(description="How long a site's certificate is good; renewed by itself at half of it.")
    ] = 168.0
    server_certificate_hours: Annotated[
        Hours,
        Field(description="How long the server's own certificate is good; renewed when it starts, at half of it."),
    ] = 2_160.0
    invitation_hours: Annotated[Hours, Field(description="How long an invitation is good.")] = 24.0
    approval_hours: Annotated[Hours, Field(description="How long a proposed study waits for the sites' answers.")] = (
        72.0
    )
    heartbeat_seconds: Annotated[
        float, Field(gt=0.0, le=3_600.0, description="A session without news says so this often; three missed end it.")
    ] = 5.0
    max_sessions: Annotated[int, Field(ge=1, le=100_000, description="Sites that may be connected at a time.")] = 1_000
    max_reply_mb: Annotated[
        int, Field(ge=1, le=1_000_000, description="Largest reply in megabytes, whatever the plan says.")
    ] = 16_000
    calls_per_second: Annotated[
        float, Field(gt=0.0, le=1e6, description="Calls a second that one site, or one address that enrols, may make.")
    ] = 200.0

    @property
    def enrolment_address(self) -> str:
        """``host:port`` for an invitation."""
        return f"{_bracketed(self.host)}:{self.enrolment_port}"

    @property
    def federation_address(self) -> str:
        """``host:port`` for an invitation."""
        return f"{_bracketed(self.host)}:{self.federation_port}"


def write_settings(path: Path, settings: ServerSettings) -> None:
    """Write every setting with its value, and above it what it is for.

    Raises:
        StorageError: The disk fails.
    """
    lines = [
        "# Settings of this coordinator. An unknown key is an error; the server reads the file when it starts.",
        "",
    ]
    for name, field in ServerSettings.model_fields.items():
        lines += [f"# {field.description}", f"{name} = {json.dumps(getattr(settings, name), ensure_ascii=False)}", ""]
    write_whole(path, "\n".join(lines).encode(), mode=0o600)


def read_settings(path: Path) -> ServerSettings:
    """Read the file.

    Raises:
        SettingsError: A key is unknown, missing or wrong.
    """
    return parse(ServerSettings, read_toml(path), origin=str(path))


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
