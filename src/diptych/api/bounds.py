"""How much may be asked at once: bytes of a body, the time it takes to arrive, and requests in hand."""

from __future__ import annotations

import asyncio
from typing import Any

from diptych.api.refusals import Refused
from diptych.api.room import Room
from diptych.api.settings import Settings


class Bounds:
    """ASGI: a request with a body is let in if there is room for it, before a byte of it is read."""

    def __init__(self, app: Any, settings: Settings, requests: Room, memory: Room) -> None:
        self.app, self.settings, self.requests, self.memory = app, settings, requests, memory

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        announced = _content_length(scope)
        if announced is not None and announced > self.settings.max_bytes:
            raise _too_large(announced, self.settings.max_bytes)
        size = self.settings.max_bytes if announced is None else announced
        with self.requests.take(), self.memory.take(size) as share:
            scope.setdefault("state", {})["memory"] = share  # what the request fetches takes more of it
            await self.app(scope, self._bounded(receive), send)

    def _bounded(self, receive: Any) -> Any:
        """`receive` that counts bytes and seconds until the body is whole."""
        deadline = asyncio.get_running_loop().time() + self.settings.body_seconds
        read, whole = 0, False

        async def bounded() -> dict[str, Any]:
            nonlocal read, whole
            if whole:
                return await receive()
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                seconds = f"{self.settings.body_seconds:g} s"
                raise Refused(408, "too_slow", f"the body did not arrive within {seconds}; send less at once") from None
            read += len(message.get("body", b""))
            whole = message["type"] != "http.request" or not message.get("more_body", False)
            if read > self.settings.max_bytes:
                raise _too_large(read, self.settings.max_bytes)
            return message

        return bounded


def _content_length(scope: dict[str, Any]) -> int | None:
    given = dict(scope["headers"]).get(b"content-length", b"")
    return int(given) if given.isdigit() else None


def _too_large(size: int, limit: int) -> Refused:
    return Refused(413, "too_large", f"the body has {size:,} bytes or more, the limit is {limit:,}; send less at once")
