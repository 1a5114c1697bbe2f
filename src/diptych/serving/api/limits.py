"""Request limits: bytes of a body, time it takes to arrive, and requests in flight."""

from __future__ import annotations

import asyncio
import ipaddress
import math
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import Any

from starlette.requests import ClientDisconnect

from diptych.serving.api.error_responses import RequestRefused, busy
from diptych.serving.api.settings import Settings

App = Callable[[dict[str, Any], Any, Any], Awaitable[None]]

_BODILESS = ("GET", "HEAD", "OPTIONS")
_GRACE = 5.0  # seconds that a body may be silent or slow
_RATE = 4_096  # bytes a second, on average, at which it must arrive after that


class Bounds:
    """ASGI: a request with a body is let in if there is room for it, before a byte of it is read.

    A body counts as many bytes as are received, whatever its headers announce. When its client hangs up, the request
    ends: what it waits for is dropped. With `sockets`, WebSockets are let in while there is room for them.
    """

    def __init__(self, app: App, settings: Settings, requests: Room, memory: Room, sockets: Room | None = None) -> None:
        self.app, self.settings, self.requests, self.memory = app, settings, requests, memory
        self.sockets = sockets

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        with ExitStack() as held:
            if scope["type"] == "websocket" and self.sockets is not None:
                held.enter_context(self.sockets.take())
            if scope["type"] != "http":
                await self.app(scope, receive, send)
                return
            announced = _announced(scope)
            if scope["method"] not in _BODILESS:
                if announced is not None and announced > self.settings.max_bytes:
                    raise _too_large(announced, self.settings.max_bytes)
                size = self.settings.max_bytes if announced is None else announced
                held.enter_context(self.requests.take())
                # What the request fetches takes more of the same share.
                scope.setdefault("state", {})["memory"] = held.enter_context(self.memory.take(size))
                receive = self._bounded(receive)
            await run_while_connected(self.app, scope, receive, send)

    def _bounded(self, receive: Any) -> Any:
        """`receive` that counts bytes and seconds until the body is whole."""
        clock = asyncio.get_running_loop().time
        deadline = clock() + self.settings.body_seconds
        read, waited, whole = 0, 0.0, False

        async def bounded() -> dict[str, Any]:
            nonlocal read, waited, whole
            if whole:
                return await receive()
            began = clock()
            try:
                async with asyncio.timeout_at(min(deadline, began + _GRACE + read / _RATE - waited)):
                    message = await receive()
            except TimeoutError:
                raise self._too_slow(read) from None
            waited += clock() - began
            read += len(message.get("body", b""))
            whole = message["type"] != "http.request" or not message.get("more_body", False)
            if read > self.settings.max_bytes:
                raise _too_large(read, self.settings.max_bytes)
            return message

        return bounded

    def _too_slow(self, read: int) -> RequestRefused:
        limits = f"{self.settings.body_seconds:g} s, nor at {_RATE:,} bytes a second after the first {_GRACE:g} s"
        return RequestRefused(
            408, "too_slow", f"{read:,} bytes of the body arrived, not all within {limits}; send less"
        )


async def run_while_connected(app: App, scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Run an app until it has answered, or cancel it when its client hangs up.

    Raises:
        ClientDisconnect: the client hung up before the answer was whole.
        Refused: what `receive` raised, whatever the app made of that.
    """
    exchange = _Exchange(receive, send, has_body=scope["method"] not in _BODILESS)
    work: asyncio.Task[None] = asyncio.ensure_future(app(scope, exchange.receive, exchange.send))
    watching = asyncio.create_task(exchange.watch())
    try:
        await asyncio.wait({work, watching}, return_when=asyncio.FIRST_COMPLETED)
        if work.done() or exchange.answered:
            await asyncio.wait({work})
            if exchange.refused is not None and not exchange.began:
                raise exchange.refused
            await work
        else:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
            raise ClientDisconnect
    finally:
        work.cancel()
        watching.cancel()
        await asyncio.gather(work, watching, return_exceptions=True)


class _Exchange:
    """The messages of a request and its answer, where the server still hears the client once the body is whole."""

    def __init__(self, receive: Any, send: Any, *, has_body: bool) -> None:
        self._receive, self._send, self._empty = receive, send, not has_body
        self._whole, self._gone = asyncio.Event(), asyncio.Event()
        self.began = self.answered = False
        self.refused: RequestRefused | None = None
        if not has_body:
            self._whole.set()

    async def receive(self) -> dict[str, Any]:
        if self._empty:
            self._empty = False
            return {"type": "http.request", "body": b"", "more_body": False}
        if self._whole.is_set():
            await self._gone.wait()
            return {"type": "http.disconnect"}
        try:
            message: dict[str, Any] = await self._receive()
        except RequestRefused as refused:
            self.refused = refused
            raise
        if message["type"] == "http.disconnect":
            self._gone.set()
        if message["type"] != "http.request" or not message.get("more_body", False):
            self._whole.set()
        return message

    async def send(self, message: dict[str, Any]) -> None:
        if self.refused is not None and not self.began:
            return  # the app's own words for it are not those of our errors
        self.began = True
        await self._send(message)
        self.answered = message["type"] == "http.response.body" and not message.get("more_body", False)

    async def watch(self) -> None:
        """Wait until the client hangs up, or has its answer."""
        await self._whole.wait()
        while not self._gone.is_set() and (await self._receive())["type"] != "http.disconnect":
            pass
        self._gone.set()


def _announced(scope: dict[str, Any]) -> int | None:
    """The Content-Length; None where the body comes in chunks, or there is none.

    Raises:
        Refused: 400, it has a Transfer-Encoding too (RFC 9112, 6.1), so that two servers may read two requests in it.
    """
    headers = dict(scope["headers"])
    given = headers.get(b"content-length", b"")
    if given and b"transfer-encoding" in headers:
        message = "the request has both Content-Length and Transfer-Encoding; send one of them"
        raise RequestRefused(400, "ambiguous_length", message, {"Connection": "close"})
    return int(given) if given.isdigit() else None


def _too_large(size: int, limit: int) -> RequestRefused:
    return RequestRefused(
        413, "too_large", f"the body has {size:,} bytes or more, the limit is {limit:,}; send less at once"
    )


CLIENT: ContextVar[str] = ContextVar("client", default="")
"""The client of the request in hand: the digest of its key, or its network. Empty outside of requests."""

_SHARE = 0.75  # of a limit that one client may hold, so that something is left for the others
_NETWORK = 64  # bits of an IPv6 address that name a client's network; it may choose the others as it likes


def network_of(address: str) -> str:
    """What names the client at an address: an IPv4 address, or the /64 network of an IPv6 address."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(ip, ipaddress.IPv4Address):
        return str(ip)
    return str(ip.ipv4_mapped or ipaddress.ip_network((ip, _NETWORK), strict=False))


def share_of(limit: int) -> int:
    """How much of a limit one client may hold: three quarters, rounded up."""
    return math.ceil(limit * _SHARE)


class Room:
    """Holds `limit` of something (`what`, in words), and `each` of it for one client; used from one event loop."""

    def __init__(self, limit: int, what: str, each: int | None = None) -> None:
        self.limit, self.what, self.held = limit, what, 0
        self.each = share_of(limit) if each is None else min(each, limit)
        self._clients: Counter[str] = Counter()

    @contextmanager
    def take(self, count: int = 1) -> Iterator[Share]:
        """Hold `count` for the current `CLIENT` while the context lasts, and what its share takes besides.

        Raises:
            Refused: 429, it does not fit.
        """
        share = Share(self, CLIENT.get())
        try:
            share.more(count)
            yield share
        finally:
            self._free(share)

    def held_by(self, client: str) -> int:
        """How much one client holds."""
        return self._clients[client]

    def _hold(self, share: Share, count: int) -> None:
        self.held += count
        share.held += count
        if share.client:
            self._clients[share.client] += count

    def _free(self, share: Share) -> None:
        self.held -= share.held
        if share.client:
            self._clients[share.client] -= share.held
            if not self._clients[share.client]:
                del self._clients[share.client]  # or strangers would fill the memory


class Share:
    """What one request holds of a room. One that is larger than the room has it when it is alone."""

    def __init__(self, room: Room, client: str = "") -> None:
        self.room, self.client, self.held = room, client, 0

    def more(self, count: int) -> None:
        """Hold `count` more.

        Raises:
            Refused: 429, it does not fit.
        """
        room = self.room
        own = room.held_by(self.client) if self.client else 0
        if own > self.held and own + count > room.each:
            raise busy(f"you have {own:,} {room.what} in hand, the limit is {room.each:,}; wait for their answers")
        if room.held > self.held and room.held + count > room.limit:
            raise busy(f"the server has {room.held:,} {room.what} in hand, and room for {room.limit:,}; try again soon")
        room._hold(self, count)
