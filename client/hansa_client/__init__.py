"""What a partner organisation runs beside its private data."""

import os

import hansa_common  # noqa: F401 - before grpc is loaded: it sets the TLS versions

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")  # Flower reports usage to its makers unless told not to
