"""Request limits: body size, upload time, and the requests, bytes and rows in flight, in all and per client."""

from __future__ import annotations

import asyncio
import ipaddress
import math
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from diptych.serving.api.error_responses import RequestRefused, busy
from diptych.serving.api.settings import Settings

_METHODS_WITHOUT_BODY = ("GET", "HEAD", "OPTIONS")
_GRACE_SECONDS = 5.0  # a body may pause or be slow for so long
_MIN_BYTES_PER_SECOND = 4_096  # on average, after the grace period

CLIENT: ContextVar[str] = ContextVar("client", default="")
"""The client of the current request: the digest of its API key, or its network. Empty outside of requests."""

_CLIENT_SHARE = 0.75  # of a limit; the rest stays available to other clients
_IPV6_PREFIX = 64  # bits of an IPv6 address that identify a client, which can choose the others freely


class RequestLimits:
    """ASGI middleware: admits a request with a body before it is read, and bounds its size and upload time.

    A body counts as many bytes as arrive, whatever its headers announce. When the client disconnects, the request is
    cancelled. With `sockets`, that limiter admits WebSockets.
    """

    def __init__(
        self,
        app: ASGIApp,
        settings: Settings,
        requests: CapacityLimiter,
        memory: CapacityLimiter,
        sockets: CapacityLimiter | None = None,
    ) -> None:
        self.app, self.settings, self.requests, self.memory = app, settings, requests, memory
        self.sockets = sockets

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Admit the request, and pass it on with its body bounded."""
        with ExitStack() as reservations:
            if scope["type"] == "websocket" and self.sockets is not None:
                reservations.enter_context(self.sockets.reserve())
            if scope["type"] != "http":
                await self.app(scope, receive, send)
                return
            announced = _content_length(scope)
            if scope["method"] not in _METHODS_WITHOUT_BODY:
                if announced is not None and announced > self.settings.max_bytes:
                    raise _too_large(announced, self.settings.max_bytes)
                size = self.settings.max_bytes if announced is None else announced
                reservations.enter_context(self.requests.reserve())
                # Images that the request fetches extend this reservation.
                scope.setdefault("state", {})["memory"] = reservations.enter_context(self.memory.reserve(size))
                receive = self._bounded(receive)
            await run_while_connected(self.app, scope, receive, send)

    def _bounded(self, receive: Receive) -> Receive:
        """`receive` that counts bytes and seconds until the body is complete."""
        clock = asyncio.get_running_loop().time
        deadline = clock() + self.settings.body_seconds
        size, waited, complete = 0, 0.0, False

        async def bounded() -> Message:
            nonlocal size, waited, complete
            if complete:
                return await receive()
            start = clock()
            rate_deadline = start + _GRACE_SECONDS + size / _MIN_BYTES_PER_SECOND - waited
            try:
                async with asyncio.timeout_at(min(deadline, rate_deadline)):
                    message = await receive()
            except TimeoutError:
                raise self._too_slow(size) from None
            waited += clock() - start
            size += len(message.get("body", b""))
            complete = message["type"] != "http.request" or not message.get("more_body", False)
            if size > self.settings.max_bytes:
                raise _too_large(size, self.settings.max_bytes)
            return message

        return bounded

    def _too_slow(self, size: int) -> RequestRefused:
        limits = (
            f"{self.settings.body_seconds:g} s in all, and {_MIN_BYTES_PER_SECOND:,} bytes a second after the first "
            f"{_GRACE_SECONDS:g} s"
        )
        return RequestRefused(
            408, "too_slow", f"the body is too slow: {size:,} bytes arrived, the limits are {limits}; send less"
        )


async def run_while_connected(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Run an app until its response is complete; cancel it when its client disconnects.

    Raises:
        ClientDisconnect: the client disconnected before the response was complete.
        RequestRefused: what `receive` raised, whatever the app did with it.
    """
    exchange = _Exchange(receive, send, has_body=scope["method"] not in _METHODS_WITHOUT_BODY)
    work: asyncio.Future[None] = asyncio.ensure_future(app(scope, exchange.receive, exchange.send))
    watcher = asyncio.create_task(exchange.watch())
    try:
        await asyncio.wait({work, watcher}, return_when=asyncio.FIRST_COMPLETED)
        if work.done() or exchange.answered:
            await asyncio.wait({work})
            if exchange.refusal is not None and not exchange.started:
                raise exchange.refusal
            await work
        else:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
            raise ClientDisconnect
    finally:
        work.cancel()
        watcher.cancel()
        await asyncio.gather(work, watcher, return_exceptions=True)


class _Exchange:
    """The messages of a request and its response; notices a disconnect after the body is complete."""

    def __init__(self, receive: Receive, send: Send, *, has_body: bool) -> None:
        self._receive, self._send, self._empty = receive, send, not has_body
        self._complete, self._disconnected = asyncio.Event(), asyncio.Event()
        self.started = self.answered = False
        self.refusal: RequestRefused | None = None
        if not has_body:
            self._complete.set()

    async def receive(self) -> Message:
        if self._empty:
            self._empty = False
            return {"type": "http.request", "body": b"", "more_body": False}
        if self._complete.is_set():
            await self._disconnected.wait()
            return {"type": "http.disconnect"}
        try:
            message = await self._receive()
        except RequestRefused as refusal:
            self.refusal = refusal
            raise
        if message["type"] == "http.disconnect":
            self._disconnected.set()
        if message["type"] != "http.request" or not message.get("more_body", False):
            self._complete.set()
        return message

    async def send(self, message: Message) -> None:
        if self.refusal is not None and not self.started:
            return  # the app's own error response has another shape
        self.started = True
        await self._send(message)
        self.answered = message["type"] == "http.response.body" and not message.get("more_body", False)

    async def watch(self) -> None:
        """Wait until the client disconnects, which it also does after the response."""
        await self._complete.wait()
        while not self._disconnected.is_set() and (await self._receive())["type"] != "http.disconnect":
            pass
        self._disconnected.set()


def _content_length(scope: Scope) -> int | None:
    """The Content-Length; None for a chunked body, or no body.

    Raises:
        RequestRefused: 400, the request also has a Transfer-Encoding (RFC 9112, 6.1): two servers could read two
            different requests.
    """
    headers = dict(scope["headers"])
    length = headers.get(b"content-length", b"")
    if length and b"transfer-encoding" in headers:
        message = "the request has both Content-Length and Transfer-Encoding; send one of them"
        raise RequestRefused(400, "ambiguous_length", message, {"Connection": "close"})
    return int(length) if length.isdigit() else None


def _too_large(size: int, limit: int) -> RequestRefused:
    return RequestRefused(
        413, "too_large", f"the body has {size:,} bytes or more, the limit is {limit:,}; send less at once"
    )


def network_of(address: str) -> str:
    """The client at an address: the IPv4 address, or the /64 network of an IPv6 address."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(ip, ipaddress.IPv4Address):
        return str(ip)
    return str(ip.ipv4_mapped or ipaddress.ip_network((ip, _IPV6_PREFIX), strict=False))


def share_of(limit: int) -> int:
    """How much of a limit one client may hold: three quarters, rounded up."""
    return math.ceil(limit * _CLIENT_SHARE)


class CapacityLimiter:
    """At most `limit` of a resource in use at once, and `per_client` by one client; used from one event loop.

    Args:
        limit: Units in all, at least 1.
        resource: The units' name in messages, such as "requests".
        per_client: Units that one client may hold; None is three quarters of `limit`.
    """

    def __init__(self, limit: int, resource: str, per_client: int | None = None) -> None:
        self.limit, self.resource, self.held = limit, resource, 0
        self.per_client = share_of(limit) if per_client is None else min(per_client, limit)
        self._clients: Counter[str] = Counter()

    @contextmanager
    def reserve(self, count: int = 1) -> Iterator[Reservation]:
        """Hold `count` units for the current `CLIENT` while the context lasts.

        Raises:
            RequestRefused: 429, fewer are free.
        """
        reservation = Reservation(self, CLIENT.get())
        try:
            reservation.extend(count)
            yield reservation
        finally:
            self._release(reservation)

    def held_by(self, client: str) -> int:
        """How many units a client holds."""
        return self._clients[client]

    def _hold(self, reservation: Reservation, count: int) -> None:
        self.held += count
        reservation.held += count
        if reservation.client:
            self._clients[reservation.client] += count

    def _release(self, reservation: Reservation) -> None:
        self.held -= reservation.held
        if reservation.client:
            self._clients[reservation.client] -= reservation.held
            if not self._clients[reservation.client]:
                del self._clients[reservation.client]  # keeps the number of known clients bounded


class Reservation:
    """The units that one request holds. A request that needs more than the limit gets them if it is the only one."""

    def __init__(self, limiter: CapacityLimiter, client: str = "") -> None:
        self.limiter, self.client, self.held = limiter, client, 0

    def extend(self, count: int) -> None:
        """Hold `count` more units.

        Raises:
            RequestRefused: 429, fewer are free.
        """
        limiter = self.limiter
        own = limiter.held_by(self.client) if self.client else 0
        if own > self.held and own + count > limiter.per_client:
            raise busy(
                f"you have {own:,} {limiter.resource} in flight, the limit is {limiter.per_client:,}; wait for the "
                "responses"
            )
        if limiter.held > self.held and limiter.held + count > limiter.limit:
            raise busy(
                f"the server has {limiter.held:,} {limiter.resource} in flight, the limit is {limiter.limit:,}; try "
                "again soon"
            )
        limiter._hold(self, count)
