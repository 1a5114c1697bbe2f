"""Connection limits and timeouts."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
from collections import Counter
from http import HTTPStatus
from typing import Any

from diptych.errors import require
from diptych.serving.api.error_responses import error_body
from diptych.serving.api.limits import network_of, share_of

require("uvicorn", extra="api")

import h11  # noqa: E402 - after the check that it is installed
from uvicorn.protocols.http.h11_impl import H11Protocol  # noqa: E402

MAX_CONNECTIONS = 200
IDLE_SECONDS = 30.0
_MIN_PER_CLIENT = 2  # connections that every client may have, however small the limit

log = logging.getLogger("diptych.serving.api")


class Connection(H11Protocol):
    """uvicorn's HTTP/1.1 connection with an idle timeout and a limit on connections.

    A connection is idle while the server waits for its client: until the head of a request is complete, and until a
    response is read. An idle connection is closed after `idle_seconds`. The time that the server takes to respond does
    not count. When there are more than `max_connections`, or one client has more than three quarters of them, an idle
    connection is closed for each new one: of the client with the most connections, the one that has been idle for
    longest. Thousands of idle connections therefore keep nobody out. If no connection is idle, the new one gets a 503.
    """

    def __init__(
        self,
        *arguments: Any,
        max_connections: int = MAX_CONNECTIONS,
        idle_seconds: float = IDLE_SECONDS,
        **keywords: Any,
    ) -> None:
        super().__init__(*arguments, **keywords)
        self.max_connections, self.idle_seconds = max_connections, idle_seconds
        self.network = ""
        self._idle_timer: asyncio.TimerHandle | None = None  # set while idle

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Admit the connection, or close one that is idle; refuse this one if none is."""
        super().connection_made(transport)
        self.network = network_of(self.client[0]) if self.client else ""
        self._update_idle()
        own = [connection for connection in self._all() if connection.network == self.network]
        if len(own) > max(_MIN_PER_CLIENT, share_of(self.max_connections)):
            self._close_one_of(own)
        elif len(self.connections) > self.max_connections:
            self._close_one_of(self._all())

    def data_received(self, data: bytes) -> None:
        """Read a part of a request."""
        super().data_received(data)
        self._update_idle()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        super().on_response_complete()
        self._update_idle()

    def pause_writing(self) -> None:
        """Wait for the client to read the response."""
        super().pause_writing()
        self._update_idle()

    def resume_writing(self) -> None:
        """Go on with the response."""
        super().resume_writing()
        self._update_idle()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._stop_idle_timer()
        super().connection_lost(exc)

    def _update_idle(self) -> None:
        """Start or stop the idle timer."""
        responding = self.cycle is not None and not self.cycle.response_complete
        if responding and not self.flow.write_paused:
            self._stop_idle_timer()
        elif self._idle_timer is None and self in self.connections:
            self._idle_timer = self.loop.call_later(self.idle_seconds, self._abort)

    def _stop_idle_timer(self) -> None:
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None

    def _all(self) -> list[Connection]:
        return [connection for connection in self.connections if isinstance(connection, Connection)]

    def _close_one_of(self, connections: list[Connection]) -> None:
        """Close the connection that has been idle for longest; refuse this one if none is idle."""
        counts = Counter(connection.network for connection in connections)
        idle = [
            (-counts[connection.network], connection._idle_timer.when(), connection)
            for connection in connections
            if connection is not self and connection._idle_timer is not None
        ]
        if idle:
            min(idle, key=lambda entry: entry[:2])[2]._abort()
        else:
            self._refuse()

    def _abort(self) -> None:
        """Close at once, without reading or writing what is pending."""
        self._stop_idle_timer()
        self.connections.discard(self)  # now, because connections made in the same iteration of the loop count too
        self.transport.abort()

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        """Hand the connection over to the WebSocket protocol."""
        self._stop_idle_timer()  # another protocol takes over
        super().handle_websocket_upgrade(event)

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - the signature of uvicorn
        """Answer invalid HTTP in the shape of all errors."""
        if self.cycle is not None and self.cycle.response_started and not self.cycle.response_complete:
            self.transport.close()  # a second response cannot follow inside the first
            return
        self._respond(400, "invalid_http", "the request is not valid HTTP/1.1, or its headers are longer than 32 KB")

    def _refuse(self) -> None:
        message = f"the server has {self.max_connections:,} connections with a request in flight; try again soon"
        log.warning("%s: refused a connection from %s", message, self.network)
        self.connections.discard(self)
        self._respond(503, "busy", message, "Retry-After: 1")

    def _respond(self, status: int, kind: str, message: str, *headers: str) -> None:
        """Send an error without the app, and close."""
        request_id = secrets.token_hex(8)
        log.info("%s %s %s", status, kind, request_id)
        body = json.dumps(error_body(kind, message, request_id))
        head = [
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
            *headers,
            f"X-Request-ID: {request_id}",
            "Connection: close",
        ]
        self._stop_idle_timer()
        self.transport.write("\r\n".join([*head, "", body]).encode())
        self.transport.close()
