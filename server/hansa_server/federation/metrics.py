"""What Prometheus may read: counts and states, no names of sites and no values."""

from prometheus_client import CollectorRegistry, Counter, Gauge, start_http_server

from hansa_common.errors import StorageError


class Metrics:
    """The coordinator's figures."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.online = Gauge("hansa_sites_online", "Sites with a session.", registry=self._registry)
        self.open_tasks = Gauge("hansa_tasks_open", "Tasks that wait for a reply.", registry=self._registry)
        self.running = Gauge("hansa_studies_running", "Studies that run.", registry=self._registry)
        self._replies = Counter("hansa_replies", "Replies that were stored.", registry=self._registry)
        self._refused = Counter("hansa_refused_calls", "Calls refused.", ["denial"], registry=self._registry)
        self._received = Counter("hansa_received_bytes", "Bytes of replies received.", registry=self._registry)
        self._sent = Counter("hansa_sent_bytes", "Bytes of tasks sent.", registry=self._registry)

    def refused(self, denial: str) -> None:
        """Count a refused call."""
        self._refused.labels(denial).inc()

    def replied(self) -> None:
        """Count a stored reply."""
        self._replies.inc()

    def received(self, size: int) -> None:
        """Count bytes of replies."""
        self._received.inc(size)

    def sent(self, size: int) -> None:
        """Count bytes of tasks."""
        self._sent.inc(size)

    def serve(self, address: str) -> None:
        """Serve ``/metrics`` on ``host:port``.

        Raises:
            StorageError: The port is taken.
        """
        host, _, port = address.rpartition(":")
        try:
            start_http_server(int(port), addr=host, registry=self._registry)
        except OSError as error:
            raise StorageError(
                f"Cannot serve metrics on {address}: {error.strerror}.", advice="Change metrics_address in server.toml."
            ) from error
