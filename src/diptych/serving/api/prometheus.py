"""Prometheus metrics: requests, latencies, batch sizes, and queueing times."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from starlette.types import Scope

from diptych.errors import require

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128)


class ServerMetrics:
    """The metrics of one app, in a registry of its own, so that several apps can run in a process.

    Raises:
        MissingExtra: `prometheus_client` is not installed.
    """

    def __init__(self) -> None:
        prometheus = require("prometheus_client", extra="api")
        self._generate: Callable[[Any], bytes] = prometheus.generate_latest
        self.media_type: str = prometheus.CONTENT_TYPE_LATEST
        self.registry = registry = prometheus.CollectorRegistry()
        self._responses = prometheus.Counter(
            "diptych_requests_total", "Responses by route and status", ["route", "status"], registry=registry
        )
        self._latencies = prometheus.Histogram(
            "diptych_request_seconds", "Time from request to response", ["route"], buckets=_SECONDS, registry=registry
        )
        self._rows = prometheus.Counter(
            "diptych_rows_total", "Images or texts processed", ["operation"], registry=registry
        )
        self._batches = prometheus.Histogram(
            "diptych_batch_rows", "Rows per batch", ["operation"], buckets=_ROWS, registry=registry
        )
        self._waits = prometheus.Histogram(
            "diptych_wait_seconds", "Time from queued to started", ["operation"], buckets=_SECONDS, registry=registry
        )
        self._open = prometheus.Gauge("diptych_requests_open", "Requests in flight", registry=registry)

    def record_response(self, scope: Scope, status: int, seconds: float) -> None:
        """Count a response and its latency under the route of its ASGI scope."""
        route = getattr(scope.get("route"), "path", "other")  # not the requested path: labels must stay bounded
        self._responses.labels(route, str(status)).inc()
        self._latencies.labels(route).observe(seconds)

    def record_batch(self, operation: str, rows: int, waits: list[float]) -> None:
        """Count a batch of an operation: its rows, and the seconds that each of its requests waited."""
        self._rows.labels(operation).inc(rows)
        self._batches.labels(operation).observe(rows)
        for seconds in waits:
            self._waits.labels(operation).observe(seconds)

    def watch_requests(self, in_flight: Callable[[], float]) -> None:
        """Take the number of requests in flight from `in_flight()` at each scrape."""
        self._open.set_function(in_flight)

    def text(self) -> bytes:
        """The metrics in Prometheus' text format."""
        return self._generate(self.registry)
