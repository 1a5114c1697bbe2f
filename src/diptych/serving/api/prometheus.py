"""What Prometheus reads: requests, seconds, pictures and texts, batches, and what was refused."""

from __future__ import annotations

from typing import Any

from diptych.errors import require

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128)


class ServerMetrics:
    """The figures of one app, in a registry of their own, so that two apps in a process do not mix theirs."""

    def __init__(self) -> None:
        prometheus = require("prometheus_client", extra="api")
        self._write = prometheus.generate_latest
        self.media_type: str = prometheus.CONTENT_TYPE_LATEST
        self.registry = prometheus.CollectorRegistry()
        kept: dict[str, Any] = {"registry": self.registry}
        self._requests = prometheus.Counter("diptych_requests_total", "Answers", ["route", "status"], **kept)
        self._seconds = prometheus.Histogram(
            "diptych_request_seconds", "From request to answer", ["route"], buckets=_SECONDS, **kept
        )
        self._rows = prometheus.Counter("diptych_rows_total", "Pictures or texts worked on", ["operation"], **kept)
        self._batches = prometheus.Histogram(
            "diptych_batch_rows", "Rows that went through a model at once", ["operation"], buckets=_ROWS, **kept
        )
        self._waits = prometheus.Histogram(
            "diptych_wait_seconds", "From queued to begun", ["operation"], buckets=_SECONDS, **kept
        )
        self._open = prometheus.Gauge("diptych_requests_open", "Requests in hand", **kept)

    def answered(self, scope: dict[str, Any], status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "other")  # never the path as asked: strangers would fill the memory
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def worked(self, operation: str, rows: int, waits: list[float]) -> None:
        """One batch of an operation, and how long each of its requests had waited."""
        self._rows.labels(operation).inc(rows)
        self._batches.labels(operation).observe(rows)
        for seconds in waits:
            self._waits.labels(operation).observe(seconds)

    def watch(self, held: Any) -> None:
        """Read the number of open requests off `held()` whenever somebody asks."""
        self._open.set_function(held)

    def text(self) -> bytes:
        return self._write(self.registry)
