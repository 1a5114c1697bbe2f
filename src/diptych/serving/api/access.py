"""Who may ask: by which name, from which web page, with which key, how often. Works before any ASGI app."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import math
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

from diptych.errors import ConfigError
from diptych.serving.api.error_responses import RequestRefused
from diptych.serving.api.limits import CLIENT, network_of
from diptych.serving.api.settings import Settings

OPEN = ("/healthz", "/readyz")  # for whoever watches over the process; they tell nothing
HEAD_BYTES = 32 * 1024  # of a request's headers and address
# A charset other than UTF-8 for a form: Python has encodings that it reads in the square of a text's length (punycode).
_FOREIGN_CHARSET = re.compile(rb"""charset[\s*\d]*=(?!\s*["']?utf-?8["']?\s*(?:;|$))""", re.IGNORECASE)
_HOST = re.compile(r"(?:\[([0-9a-f:.]+)\]|([a-z0-9._-]+))(?::\d{1,5})?")
_REMEMBERED = 10_000  # clients whose rate is known; the longest silent is forgotten first


class Guard:
    """ASGI: lets through what `settings` allow, and names the `CLIENT`.

    A web page that somebody visits can send requests to a server on the same machine, under the server's address or a
    name of its own that points there (DNS rebinding). So the Host must be one of `hosts` or the address that the
    request came in at, and an Origin, which browsers name, must be the server's own or one of `cors`. WebSockets,
    where there are any (`sockets`), pass the same checks.
    """

    def __init__(
        self,
        app: Any,
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
        self._rate = Rate(settings.rate, clock) if settings.rate else None
        self._wrong = Rate(settings.wrong_keys, clock, "wrong keys") if settings.wrong_keys else None

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "websocket" and not self.sockets:
            raise RequestRefused(400, "invalid_request", "there are no WebSockets here")
        if scope["type"] in ("http", "websocket"):
            _check_length(scope)
            _check_charset(scope)
            headers = dict(scope["headers"])
            client = network_of((scope.get("client") or ("",))[0])
            self._check_names(headers, (scope.get("server") or ("",))[0])
            if scope["path"] not in OPEN:
                client = self._check_key(headers, client) or client
                if self._rate:
                    self._rate.check(client)
            CLIENT.set(client)
        await self.app(scope, receive, send)

    def _check_names(self, headers: dict[bytes, bytes], server: str) -> None:
        host = headers.get(b"host", b"").decode("latin-1").lower()
        if not self._is_ours(host, server):
            name = _hostname(host) or host
            message = f"this server does not answer to '{name[:100]}'; start it with --hosts NAME for each further name"
            raise RequestRefused(403, "forbidden_host", message)
        origin = headers.get(b"origin", b"").decode("latin-1").lower()
        if origin and origin not in self._origins and _host_of(origin) != host:
            message = f"pages of '{origin[:100]}' may not ask here; start the server with --cors ORIGIN to allow them"
            raise RequestRefused(403, "forbidden_origin", message)

    def _is_ours(self, host: str, server: str) -> bool:
        """Whether a Host header is one of `hosts`, or the address of this machine at which the request came in."""
        name = _hostname(host)
        return bool(name) and ("*" in self._hosts or name in self._hosts or _is_same(name, server))

    def _check_key(self, headers: dict[bytes, bytes], client: str) -> str | None:
        """The digest of the key, if keys are asked for; all are compared, in the same time whichever is right."""
        if not self._digests:
            return None
        if self._wrong:
            self._wrong.check(client, 0)
        scheme, _, bearer = headers.get(b"authorization", b"").partition(b" ")
        key = bearer.strip() if scheme.lower() == b"bearer" else headers.get(b"x-api-key", b"")
        given = _digest(key)
        if not sum(hmac.compare_digest(given, known) for known in self._digests):
            if self._wrong and key:  # a request without a key guesses nothing
                self._wrong.check(client)
            raise RequestRefused(
                401,
                "unauthorized",
                "give an API key that the server knows: Authorization: Bearer KEY",
                {"WWW-Authenticate": "Bearer"},
            )
        return given.hex()


class Rate:
    """So many of something (`what`) a second for each client, and ten at once after a silence: a token bucket."""

    def __init__(self, per_second: float, clock: Callable[[], float] = time.monotonic, what: str = "requests") -> None:
        self.per_second, self.burst, self.clock, self.what = per_second, max(10.0, per_second), clock, what
        self._known: OrderedDict[str, tuple[float, float]] = OrderedDict()  # client -> tokens left, and when

    def check(self, client: str, count: int = 1) -> None:
        """Count one, or with `count=0` only see whether there may be another.

        Raises:
            RequestRefused: 429, it is one too many; the answer says when to try again.
        """
        now = self.clock()
        tokens, when = self._known.pop(client, (self.burst, now))
        tokens = min(self.burst, tokens + (now - when) * self.per_second)
        if count or tokens < self.burst:
            self._known[client] = (tokens - count if tokens >= 1 else tokens, now)
        if len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
        if tokens < 1:
            seconds = math.ceil((1 - tokens) / self.per_second)
            message = f"more than {self.per_second:g} {self.what} a second; try again in {seconds} s"
            raise RequestRefused(429, "too_many_requests", message, {"Retry-After": str(seconds)})


def check_keys(keys: Sequence[str]) -> Sequence[str]:
    """The keys.

    Raises:
        ConfigError: one is short enough to be guessed.
    """
    if short := sum(len(key) < 16 for key in keys):
        raise ConfigError(
            f"{short} of the API keys have fewer than 16 characters, which can be guessed; make one with "
            'python -c "import secrets; print(secrets.token_urlsafe(32))"'
        )
    return keys


def _check_length(scope: dict[str, Any]) -> None:
    fields = sum(len(name) + len(value) for name, value in scope["headers"])
    if fields + len(scope.get("raw_path") or b"") + len(scope.get("query_string", b"")) > HEAD_BYTES:
        raise RequestRefused(
            431, "too_large", f"the address and headers have more than {HEAD_BYTES:,} bytes; send less"
        )


def _check_charset(scope: dict[str, Any]) -> None:
    """Refuse other encodings than UTF-8, before the reader of a form decodes each field by what its client names."""
    if any(name == b"content-type" and _FOREIGN_CHARSET.search(value) for name, value in scope["headers"]):
        raise RequestRefused(415, "unsupported_type", "a body in another charset than UTF-8 is not read; send UTF-8")


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def _hostname(host: str) -> str:
    """A Host header in lower case without its port: `[::1]:80` is `::1`. Empty where it is no Host."""
    found = _HOST.fullmatch(host)
    return (found[1] or found[2].rstrip(".")) if found else ""


def _is_same(name: str, address: str) -> bool:
    """Whether a host is an IP address, and that very one."""
    try:
        one, other = ipaddress.ip_address(name), ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    return one == other or one == getattr(other, "ipv4_mapped", None)


def _host_of(origin: str) -> str:
    """What a Host header says for an Origin: `http://localhost:80` is `localhost:80`."""
    return origin.partition("://")[2]
