"""How many may be connected at once, and how long one may keep the server waiting."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
from typing import Any

from diptych.api import refusals
from diptych.errors import require

require("uvicorn", extra="api")

from uvicorn.protocols.http.h11_impl import H11Protocol  # noqa: E402 - what is missing has been said by now

MOST = 200
SECONDS = 30.0

log = logging.getLogger("diptych.api")


class Connection(H11Protocol):
    """uvicorn's connection, with an end to waiting.

    The server waits for who is connected until the head of a request is whole, and until an answer is read. One that
    keeps it waiting for `seconds` is closed; the time that the server itself takes does not count. Beyond
    `most` connections, the one that keeps it waiting longest makes room for the new one, so that who asks at once
    comes through among thousands that say nothing; where none does, the new one is answered 503.
    """

    def __init__(self, *arguments: Any, most: int = MOST, seconds: float = SECONDS, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.most, self.seconds = most, seconds
        self._deadline: asyncio.TimerHandle | None = None  # there while the server waits

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._look()
        if len(self.connections) > self.most:
            self._make_room()

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

    def _make_room(self) -> None:
        others = [each for each in self.connections if isinstance(each, Connection) and each is not self]
        waiting = {each: each._deadline.when() for each in others if each._deadline is not None}
        if waiting:
            min(waiting, key=waiting.__getitem__)._end()
        else:
            self._refuse()

    def _end(self) -> None:
        """Close at once, whatever is still to be read or written."""
        self._wait_no_more()
        self.connections.discard(self)  # now, since others that come in this very moment count too
        self.transport.abort()

    def _refuse(self) -> None:
        request_id = secrets.token_hex(8)
        log.warning("there are %s connections, each with a request in hand: refused %s", self.most, request_id)
        message = f"the server has {self.most:,} connections, each with a request in hand; try again soon"
        body = json.dumps(refusals.body("busy", message, request_id))
        head = [
            *("HTTP/1.1 503 Service Unavailable", "Content-Type: application/json", f"Content-Length: {len(body)}"),
            *("Retry-After: 1", f"X-Request-ID: {request_id}", "Connection: close"),
        ]
        self.connections.discard(self)
        self._wait_no_more()
        self.transport.write("\r\n".join([*head, "", body]).encode())
        self.transport.close()
