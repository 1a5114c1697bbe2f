"""Who may ask: by which name, from which web page, with which key, how often. Works before any ASGI app."""

from __future__ import annotations

import hashlib
import hmac
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

from diptych.api.refusals import Refused
from diptych.api.settings import Settings
from diptych.errors import ConfigError

OPEN = ("/healthz", "/readyz")  # for whoever watches over the process; they tell nothing
_REMEMBERED = 10_000  # askers whose rate is known; the longest silent is forgotten first


class Guard:
    """ASGI: lets through what `settings` allow.

    A web page that somebody visits can send requests to a server on the same machine, under the server's address or a
    name of its own that points there (DNS rebinding). So the Host must be one of `hosts`, and an Origin, which browsers
    name, must be the server's own or one of `cors`.
    """

    def __init__(
        self, app: Any, settings: Settings, keys: Sequence[str] = (), clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.app, self.settings = app, settings
        self._digests = [_digest(key.encode()) for key in keys]
        self._rate = Rate(settings.rate, clock) if settings.rate else None

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            headers = dict(scope["headers"])
            self._check_names(headers)
            if scope["path"] not in OPEN:
                key = self._check_key(headers)
                if self._rate:
                    self._rate.check(key or (scope.get("client") or ("",))[0])
        elif scope["type"] == "websocket":
            raise Refused(400, "invalid_request", "there are no web sockets here")
        await self.app(scope, receive, send)

    def _check_names(self, headers: dict[bytes, bytes]) -> None:
        asked = headers.get(b"host", b"").decode("latin-1")
        if "*" not in self.settings.hosts and _hostname(asked) not in self.settings.hosts:
            raise Refused(403, "forbidden_host", f"this server is not '{asked}'; it answers to --hosts alone")
        origin = headers.get(b"origin", b"").decode("latin-1")
        if origin and origin not in self.settings.cors and _host_of(origin) != asked:
            raise Refused(403, "forbidden_origin", f"pages of '{origin}' may not ask here; --cors names those that may")

    def _check_key(self, headers: dict[bytes, bytes]) -> str | None:
        """The digest of the key, if keys are asked for; all are compared, in the same time whichever is right."""
        if not self._digests:
            return None
        scheme, _, bearer = headers.get(b"authorization", b"").partition(b" ")
        given = _digest(bearer.strip() if scheme.lower() == b"bearer" else headers.get(b"x-api-key", b""))
        if not sum(hmac.compare_digest(given, known) for known in self._digests):
            raise Refused(
                401,
                "unauthorized",
                "give an API key that the server knows: Authorization: Bearer KEY",
                {"WWW-Authenticate": "Bearer"},
            )
        return given.hex()


class Rate:
    """So many requests a second for each asker, and ten at once after a silence: a token bucket."""

    def __init__(self, per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.per_second, self.burst, self.clock = per_second, max(10.0, per_second), clock
        self._known: OrderedDict[str, tuple[float, float]] = OrderedDict()  # asker -> tokens left, and when

    def check(self, asker: str) -> None:
        """Count a request.

        Raises:
            Refused: 429, it is one too many; the answer says when to try again.
        """
        now = self.clock()
        tokens, when = self._known.pop(asker, (self.burst, now))
        tokens = min(self.burst, tokens + (now - when) * self.per_second)
        self._known[asker] = (tokens - 1 if tokens >= 1 else tokens, now)
        if len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
        if tokens < 1:
            seconds = math.ceil((1 - tokens) / self.per_second)
            message = f"more than {self.per_second:g} requests a second; try again in {seconds} s"
            raise Refused(429, "too_many_requests", message, {"Retry-After": str(seconds)})


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


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def _hostname(host: str) -> str:
    """A Host header without its port: `[::1]:80` is `::1`."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _host_of(origin: str) -> str:
    """What a Host header says for an Origin: `http://localhost:80` is `localhost:80`."""
    return origin.partition("://")[2]
