"""What a partner organisation runs beside its private data."""

import os

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")  # Flower reports usage to its makers unless told not to
