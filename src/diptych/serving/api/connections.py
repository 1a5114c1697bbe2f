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
from diptych.serving.api import error_responses as refusals
from diptych.serving.api.limits import network_of, share_of

require("uvicorn", extra="api")

import h11  # noqa: E402 - what is missing has been said by now
from uvicorn.protocols.http.h11_impl import H11Protocol  # noqa: E402

MOST = 200
_FEW = 2  # connections that every client may have, however few there may be in all
SECONDS = 30.0

log = logging.getLogger("diptych.serving.api")


class Connection(H11Protocol):
    """uvicorn's connection, with an end to waiting.

    The server waits for who is connected until the head of a request is whole, and until an answer is read. One that
    keeps it waiting for `seconds` is closed; the time that the server itself takes does not count. Beyond `most`
    connections, or three quarters of them from one client, one that keeps it waiting makes room for the new one: of
    the client with the most connections, the one that waits longest. So who asks at once comes through among thousands
    that say nothing. Where none keeps it waiting, the new one is answered 503.
    """

    def __init__(self, *arguments: Any, most: int = MOST, seconds: float = SECONDS, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.most, self.seconds = most, seconds
        self.network = ""
        self._deadline: asyncio.TimerHandle | None = None  # there while the server waits

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.network = network_of(self.client[0]) if self.client else ""
        self._look()
        own = [each for each in self._all() if each.network == self.network]
        if len(own) > max(_FEW, share_of(self.most)):
            self._make_room(own)
        elif len(self.connections) > self.most:
            self._make_room(self._all())

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._look()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._look()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._look()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._look()

    def connection_lost(self, exc: Exception | None) -> None:
        self._wait_no_more()
        super().connection_lost(exc)

    def _look(self) -> None:
        """Whether the server waits, and since when."""
        in_hand = self.cycle is not None and not self.cycle.response_complete
        if in_hand and not self.flow.write_paused:
            self._wait_no_more()
        elif self._deadline is None and self in self.connections:
            self._deadline = self.loop.call_later(self.seconds, self._end)

    def _wait_no_more(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _all(self) -> list[Connection]:
        return [each for each in self.connections if isinstance(each, Connection)]

    def _make_room(self, among: list[Connection]) -> None:
        held = Counter(each.network for each in among)
        waiting = [each for each in among if each is not self and each._deadline is not None]
        if waiting:
            min(waiting, key=lambda each: (-held[each.network], each._deadline.when()))._end()  # type: ignore[union-attr]
        else:
            self._refuse()

    def _end(self) -> None:
        """Close at once, whatever is still to be read or written."""
        self._wait_no_more()
        self.connections.discard(self)  # now, since others that come in this very moment count too
        self.transport.abort()

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        self._wait_no_more()  # another protocol takes over
        super().handle_websocket_upgrade(event)

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP, in the one shape of errors."""
        if self.cycle is not None and self.cycle.response_started and not self.cycle.response_complete:
            self.transport.close()  # in the midst of an answer there is no place for another
            return
        self._answer(400, "invalid_http", "the request is not valid HTTP/1.1, or its headers are longer than 32 KB")

    def _refuse(self) -> None:
        message = f"the server has {self.most:,} connections, each with a request in hand; try again soon"
        log.warning("%s: refused a connection from %s", message, self.network)
        self.connections.discard(self)
        self._answer(503, "busy", message, "Retry-After: 1")

    def _answer(self, status: int, type: str, message: str, *headers: str) -> None:
        """Answer without an app, and close."""
        request_id = secrets.token_hex(8)
        log.info("%s %s %s", status, type, request_id)
        body = json.dumps(refusals.body(type, message, request_id))
        head = [
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
            *("Content-Type: application/json", f"Content-Length: {len(body)}", *headers),
            *(f"X-Request-ID: {request_id}", "Connection: close"),
        ]
        self._wait_no_more()
        self.transport.write("\r\n".join([*head, "", body]).encode())
        self.transport.close()
