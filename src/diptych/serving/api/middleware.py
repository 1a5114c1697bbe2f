"""The outermost layer: a request id, one shape for every error, a line in the log, and figures for each answer."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import secrets
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from starlette.requests import ClientDisconnect

from diptych.errors import DiptychError
from diptych.serving.api import error_responses as refusals
from diptych.serving.api.prometheus import ServerMetrics

log = logging.getLogger("diptych.serving.api")
_ID = re.compile(rb"[\w.-]{1,64}")
_REASON = 100  # characters of a WebSocket's reason, which has 123 bytes at most
_ENDING = "the server ended before the answer was ready; send the request again"


class ErrorMiddleware:
    """ASGI: whatever is raised below becomes an answer; what is nobody's fault becomes 500, and its reason is logged.

    A client may name its request (`X-Request-ID`); else it gets a name. It stands in the answer's headers, in the
    error and in the log.
    """

    def __init__(self, app: Any, figures: ServerMetrics | None = None) -> None:
        self.app, self.figures = app, figures

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._pass(scope, receive, send)
            return
        began, status = time.perf_counter(), 0
        request_id = scope.setdefault("state", {})["request_id"] = _request_id(scope)

        async def named(message: dict[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            await self.app(scope, receive, named)
        except DiptychError as error:
            if status:  # the answer had begun
                raise
            headers = getattr(error, "headers", {})
            await _answer(named, error.status, refusals.body(refusals.type_of(error), str(error), request_id), headers)
        except asyncio.CancelledError:  # the server ends, and has waited as long as it may
            if status:
                raise
            await _answer(named, 503, refusals.body("ending", _ENDING, request_id), {"Retry-After": "5"})
        except ClientDisconnect:  # nobody is there to be answered, and the fault is not the server's
            log.info("request %s was given up by who sent it", request_id)
        except Exception:
            log.exception("request %s failed", request_id)
            if status:  # the answer had begun: cut it off, so that nobody takes it for whole
                raise
            message = f"something went wrong inside the server; its log says what, under the request id {request_id}"
            await _answer(named, 500, refusals.body("internal_error", message, request_id))
        finally:
            seconds = time.perf_counter() - began
            if self.figures:
                self.figures.answered(scope, status, seconds)
            path = quote(scope["path"], errors="replace")  # a line break in it would begin a line of the asker's own
            log.info("%s %s %s %.3fs %s", status, scope["method"], path, seconds, request_id)

    async def _pass(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """What is no HTTP request; a WebSocket that is refused is closed before it opens, which HTTP answers 403."""
        try:
            await self.app(scope, receive, send)
        except DiptychError as error:
            if scope["type"] != "websocket":
                raise
            log.info("refused a WebSocket: %s", error)
            await send({"type": "websocket.close", "code": 1008, "reason": str(error)[:_REASON]})


async def _answer(send: Any, status: int, content: dict[str, Any], headers: Mapping[str, str] | None = None) -> None:
    body = json.dumps(content).encode()
    own = {"content-type": "application/json", "content-length": str(len(body)), **(headers or {})}
    told = [(name.lower().encode(), value.encode("latin-1", "replace")) for name, value in own.items()]
    await send({"type": "http.response.start", "status": status, "headers": told})
    await send({"type": "http.response.body", "body": body})


def _request_id(scope: dict[str, Any]) -> str:
    given = dict(scope["headers"]).get(b"x-request-id", b"")
    return given.decode() if _ID.fullmatch(given) else secrets.token_hex(8)
