"""The outermost middleware: request ids, error responses, the access log, and metrics."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import secrets
import time
from collections.abc import Mapping
from urllib.parse import quote

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from diptych.errors import DiptychError
from diptych.serving.api.error_responses import error_body, type_of
from diptych.serving.api.prometheus import ServerMetrics

log = logging.getLogger("diptych.serving.api")
_REQUEST_ID = re.compile(rb"[\w.-]{1,64}")
_MAX_REASON = 100  # characters of a WebSocket's close reason, which has at most 123 bytes
_SHUTDOWN = "the server shut down before the response was ready; send the request again"


class ErrorMiddleware:
    """ASGI middleware: turns every exception into an error response. Unexpected ones become a 500 and are logged.

    A client may choose its request id (`X-Request-ID`); otherwise one is generated. It is in the headers of the
    response, in the error, and in the log.
    """

    def __init__(self, app: ASGIApp, metrics: ServerMetrics | None = None) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and answer an exception as an error."""
        if scope["type"] != "http":
            await self._pass(scope, receive, send)
            return
        start, status = time.perf_counter(), 0
        request_id = scope.setdefault("state", {})["request_id"] = _request_id(scope)

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        except ClientDisconnect:  # nobody reads a response, and the server did not fail
            log.info("request %s was cancelled by its client", request_id)
        except (Exception, asyncio.CancelledError) as error:
            if not isinstance(error, DiptychError | asyncio.CancelledError):
                log.exception("request %s failed", request_id)
            if status:  # cut the started response off, so that it does not look complete
                raise
            await _respond(send_with_id, *_status_and_body(error, request_id))
        finally:
            seconds = time.perf_counter() - start
            if self.metrics:
                self.metrics.record_response(scope, status, seconds)
            path = quote(scope["path"], errors="replace")  # a line break in a path would forge a line of the log
            log.info("%s %s %s %.3fs %s", status, scope["method"], path, seconds, request_id)

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Lifespan and WebSockets; a refused WebSocket is closed before it opens, which HTTP answers with 403."""
        try:
            await self.app(scope, receive, send)
        except DiptychError as error:
            if scope["type"] != "websocket":
                raise
            log.info("refused a WebSocket: %s", error)
            await send({"type": "websocket.close", "code": 1008, "reason": str(error)[:_MAX_REASON]})


class HeadAsGet:
    """ASGI middleware: answers HEAD as GET, as HTTP requires (RFC 9110, 9.3.2); the server leaves out the body.

    Load balancers check health with HEAD, and FastAPI's routes do not answer it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, with GET in the place of HEAD."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self.app(scope, receive, send)
            return
        as_get = {**scope, "method": "GET"}  # a copy: the server omits the body by the method of its own scope
        try:
            await self.app(as_get, receive, send)
        finally:
            scope.update({name: as_get[name] for name in ("route",) if name in as_get})  # for the metrics


def _status_and_body(error: BaseException, request_id: str) -> tuple[int, dict[str, object], Mapping[str, str]]:
    """The status, body and headers of the response to an exception."""
    if isinstance(error, DiptychError):
        return error.status, error_body(type_of(error), str(error), request_id), getattr(error, "headers", {})
    if isinstance(error, asyncio.CancelledError):  # the grace period of the shutdown is over
        return 503, error_body("ending", _SHUTDOWN, request_id), {"Retry-After": "5"}
    message = f"internal error; the server's log has the details under the request id {request_id}"
    return 500, error_body("internal_error", message, request_id), {}


async def _respond(send: Send, status: int, content: Mapping[str, object], headers: Mapping[str, str]) -> None:
    body = json.dumps(content).encode()
    all_headers = {"content-type": "application/json", "content-length": str(len(body)), **headers}
    encoded = [(name.lower().encode(), value.encode("latin-1", "replace")) for name, value in all_headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": encoded})
    await send({"type": "http.response.body", "body": body})


def _request_id(scope: Scope) -> str:
    requested: bytes = dict(scope["headers"]).get(b"x-request-id", b"")
    return requested.decode() if _REQUEST_ID.fullmatch(requested) else secrets.token_hex(8)
