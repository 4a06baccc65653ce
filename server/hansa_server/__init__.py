"""The coordinator: rounds, aggregation, results. It never sees data, only released updates and counts."""

import os

import hansa_common  # noqa: F401 - before grpc is loaded: it sets the TLS versions

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")  # Flower reports usage to its makers unless told not to
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # so does Ray
