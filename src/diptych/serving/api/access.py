"""Access control: host names, origins, API keys and request rates, in front of any ASGI app."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import math
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence

from starlette.types import ASGIApp, Receive, Scope, Send

from diptych.errors import ConfigError
from diptych.serving.api.error_responses import RequestRefused
from diptych.serving.api.limits import CLIENT, network_of
from diptych.serving.api.settings import Settings
from diptych.serving.names import as_names

PATHS_WITHOUT_KEY = ("/healthz", "/readyz")  # for monitoring; they reveal nothing
MAX_HEAD_BYTES = 32 * 1024  # of a request's URL and headers
# Forms in other charsets are refused: Python decodes some of them (punycode) in quadratic time.
_FOREIGN_CHARSET = re.compile(rb"""charset[\s*\d]*=(?!\s*["']?utf-?8["']?\s*(?:;|$))""", re.IGNORECASE)
_HOST = re.compile(r"(?:\[([0-9a-f:.]+)\]|([a-z0-9._-]+))(?::\d{1,5})?")
_MAX_CLIENTS = 10_000  # whose rates are tracked; beyond that, the least recently active client is forgotten


class AccessControl:
    """ASGI middleware: admits the requests that `settings` and `keys` allow, and sets `CLIENT`.

    A web page that a user visits can send requests to a server on the same machine, under the server's address or a
    name of its own that resolves to it (DNS rebinding). Therefore the Host header must be one of `hosts` or the address
    at which the request arrived, and the Origin header, which browsers set, the server's own or one of `cors`. With
    `sockets`, WebSockets are admitted by the same checks; without, they are refused.
    """

    def __init__(
        self,
        app: ASGIApp,
        settings: Settings,
        keys: Sequence[str] = (),
        clock: Callable[[], float] = time.monotonic,
        *,
        sockets: bool = False,
    ) -> None:
        self.app, self.sockets = app, sockets
        self._hosts = frozenset(host.lower().rstrip(".") for host in settings.hosts)
        self._origins = frozenset(origin.lower().rstrip("/") for origin in settings.cors)
        self._digests = [_digest(key.encode()) for key in keys]
        self._rate = RateLimiter(settings.rate, clock) if settings.rate else None
        self._wrong_keys = RateLimiter(settings.wrong_keys, clock, "wrong keys") if settings.wrong_keys else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass an admitted request on; raises `RequestRefused` for any other."""
        if scope["type"] == "websocket" and not self.sockets:
            raise RequestRefused(400, "invalid_request", "this server has no WebSockets")
        if scope["type"] in ("http", "websocket"):
            _check_head_size(scope)
            _check_charset(scope)
            headers = dict(scope["headers"])
            client = network_of((scope.get("client") or ("",))[0])
            self._check_host_and_origin(headers, (scope.get("server") or ("",))[0])
            if scope["path"] not in PATHS_WITHOUT_KEY:
                client = self._check_key(headers, client) or client
                if self._rate:
                    self._rate.check(client)
            CLIENT.set(client)
        await self.app(scope, receive, send)

    def _check_host_and_origin(self, headers: Mapping[bytes, bytes], server: str) -> None:
        host = headers.get(b"host", b"").decode("latin-1").lower()
        if not self._is_own_host(host, server):
            name = _hostname(host) or host
            message = f"this server does not answer to '{name[:100]}'; allow further names with --allowed-hosts"
            raise RequestRefused(403, "forbidden_host", message)
        origin = headers.get(b"origin", b"").decode("latin-1").lower()
        if origin and origin not in self._origins and origin.partition("://")[2] != host:
            message = f"pages of '{origin[:100]}' are not allowed; `diptych serve --cors ORIGIN` allows them"
            raise RequestRefused(403, "forbidden_origin", message)

    def _is_own_host(self, host: str, server: str) -> bool:
        """Whether a Host header is one of `hosts`, or the address of this machine at which the request arrived."""
        name = _hostname(host)
        return bool(name) and ("*" in self._hosts or name in self._hosts or _is_same_address(name, server))

    def _check_key(self, headers: Mapping[bytes, bytes], client: str) -> str | None:
        """The digest of the request's key; None if no keys are configured. Runs in constant time."""
        if not self._digests:
            return None
        if self._wrong_keys:
            self._wrong_keys.check(client, 0)
        scheme, _, bearer = headers.get(b"authorization", b"").partition(b" ")
        key = bearer.strip() if scheme.lower() == b"bearer" else headers.get(b"x-api-key", b"")
        digest = _digest(key)
        if not sum(hmac.compare_digest(digest, known) for known in self._digests):
            if self._wrong_keys and key:  # a request without a key is not a guess
                self._wrong_keys.check(client)
            raise RequestRefused(
                401,
                "unauthorized",
                "the API key is missing or wrong; send Authorization: Bearer KEY",
                {"WWW-Authenticate": "Bearer"},
            )
        return digest.hex()


class RateLimiter:
    """A token bucket for each client: `per_second` events a second, after a burst of at least ten.

    Args:
        per_second: Events a second, above 0.
        clock: Seconds, monotonic.
        events: The events' name in messages, such as "requests".
    """

    def __init__(
        self, per_second: float, clock: Callable[[], float] = time.monotonic, events: str = "requests"
    ) -> None:
        self.per_second, self.burst, self.clock, self.events = per_second, max(10.0, per_second), clock, events
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # client -> tokens left, and when

    def check(self, client: str, count: int = 1) -> None:
        """Count an event; with `count=0`, only check whether another one is allowed.

        Raises:
            RequestRefused: 429, the client exceeds its rate; Retry-After says when to try again.
        """
        now = self.clock()
        tokens, updated = self._buckets.pop(client, (self.burst, now))
        tokens = min(self.burst, tokens + (now - updated) * self.per_second)
        if count or tokens < self.burst:
            self._buckets[client] = (tokens - count if tokens >= 1 else tokens, now)
        if len(self._buckets) > _MAX_CLIENTS:
            self._buckets.popitem(last=False)
        if tokens < 1:
            seconds = math.ceil((1 - tokens) / self.per_second)
            message = f"more than {self.per_second:g} {self.events} a second; try again in {seconds} s"
            raise RequestRefused(429, "too_many_requests", message, {"Retry-After": str(seconds)})


def check_keys(keys: str | Sequence[str]) -> Sequence[str]:
    """The keys, one or several, if none is shorter than 16 characters.

    Raises:
        ConfigError: a key is shorter, and could be guessed.
    """
    keys = as_names(keys)
    if short := sum(len(key) < 16 for key in keys):
        raise ConfigError(
            f"{short} of the API keys have fewer than 16 characters, which can be guessed; make one with "
            'python -c "import secrets; print(secrets.token_urlsafe(32))"'
        )
    return keys


def _check_head_size(scope: Scope) -> None:
    size = sum(len(name) + len(value) for name, value in scope["headers"])
    size += len(scope.get("raw_path") or b"") + len(scope.get("query_string", b""))
    if size > MAX_HEAD_BYTES:
        raise RequestRefused(431, "too_large", f"the URL and headers exceed {MAX_HEAD_BYTES:,} bytes; send less")


def _check_charset(scope: Scope) -> None:
    """Refuse other encodings than UTF-8, before the reader of a form decodes each field by what its client names."""
    if any(name == b"content-type" and _FOREIGN_CHARSET.search(value) for name, value in scope["headers"]):
        raise RequestRefused(415, "unsupported_type", "a body in another charset than UTF-8 is not read; send UTF-8")


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def _hostname(host: str) -> str:
    """A lower-case Host header without its port: `[::1]:80` is `::1`. Empty for an invalid one."""
    match = _HOST.fullmatch(host)
    return (match[1] or match[2].rstrip(".")) if match else ""


def _is_same_address(name: str, address: str) -> bool:
    """Whether a host name is an IP address, and equal to `address`."""
    try:
        one, other = ipaddress.ip_address(name), ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    return one == other or one == getattr(other, "ipv4_mapped", None)
