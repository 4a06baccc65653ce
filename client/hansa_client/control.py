"""Speaks to a running agent over the socket in the site's folder."""

import json
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_SECONDS = 10.0


def ask(folder: Path, request: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the agent's answer, or ``None`` where no agent runs on this folder."""
    if not (folder / "agent.sock").exists():
        return None
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    try:
        with socket.socket(socket.AF_UNIX) as channel:
            channel.settimeout(_SECONDS)
            channel.connect(f"/proc/self/fd/{descriptor}/agent.sock")
            channel.sendall(json.dumps(request).encode() + b"\n")
            answer = json.loads(channel.makefile("rb").readline() or b"null")
    except (OSError, ValueError):
        return None
    finally:
        os.close(descriptor)
    return answer if isinstance(answer, dict) else None
